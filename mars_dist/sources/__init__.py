"""Where notes come from: folders and archives in NSynth's format, and folders of any audio with a table of labels."""

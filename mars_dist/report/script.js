const players = () => [...document.querySelectorAll("audio")];

function alone(audio) {
  for (const other of players()) if (other !== audio) other.pause();
}

// One player at a time. The event comes late: a player that has just been started since is left alone.
document.addEventListener("play", event => {
  for (const other of players()) if (other !== event.target && other.currentTime > 0) other.pause();
}, true);

function toggle(audio) {
  if (!audio.paused) return audio.pause();
  alone(audio);
  audio.currentTime = 0;
  audio.play();
}

// A grid's pictures are buttons; the player beside each is not shown.
for (const button of document.querySelectorAll(".grid button")) {
  const audio = button.parentElement.querySelector("audio");
  button.addEventListener("click", () => toggle(audio));
  for (const name of ["play", "pause", "ended"])
    audio.addEventListener(name, () => button.classList.toggle("playing", !audio.paused));
}

// J and K go from note to note, 1 to 9 play the versions of the one that is gone to, 0 stops.
const notes = [...document.querySelectorAll(".ladder")];
let current = -1;

function goTo(index) {
  if (!notes.length) return;
  current = Math.min(Math.max(index, 0), notes.length - 1);
  notes[current].focus({preventScroll: true});
  notes[current].scrollIntoView({block: "center"});
}

document.addEventListener("focusin", event => {
  const note = event.target.closest(".ladder");
  if (note) current = notes.indexOf(note);
});

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "j") goTo(current + 1);
  else if (key === "k") goTo(current - 1);
  else if (key === "0") players().forEach(audio => audio.pause());
  else if (key >= "1" && key <= "9") {
    if (current < 0) goTo(0);
    const audio = notes[current] && notes[current].querySelectorAll("audio")[Number(key) - 1];
    if (audio) toggle(audio);
  }
});

// The before/after slider. Without this script the two pictures stand side by side.
for (const pair of document.querySelectorAll(".pair")) {
  const control = pair.parentElement.querySelector(".divider");
  const slider = control.querySelector("input");
  const move = () => {
    pair.style.setProperty("--cut", slider.value + "%");
    slider.setAttribute("aria-valuetext", slider.value + " % noisy, " + (100 - slider.value) + " % denoised");
  };
  pair.classList.add("live");
  control.hidden = false;
  slider.addEventListener("input", move);
  pair.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && event.buttons === 0) return;
    const box = pair.getBoundingClientRect();
    slider.value = Math.round(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * 100);
    move();
  });
  move();
}

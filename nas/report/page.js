"use strict";
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const shown = (mark) => mark.getClientRects().length > 0;
  for (const plot of document.querySelectorAll(".plot")) {
    const status = plot.querySelector(".aside");
    let here = null;
    const marks = () => [...plot.querySelectorAll("[data-tip]")].filter(shown);
    const leave = () => { here?.classList.remove("here"); here = null; tip.hidden = true; };
    const point = (mark, aloud) => {
      here?.classList.remove("here");
      here = mark;
      mark.classList.add("here");
      tip.textContent = mark.dataset.tip;
      if (aloud) status.textContent = mark.dataset.tip;
      tip.hidden = false;
      const box = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
      const left = Math.min(box.right + 10, innerWidth - own.width - 8);
      const top = box.top - own.height - 8;
      tip.style.left = `${Math.max(4, left)}px`;
      tip.style.top = `${top < 4 ? box.bottom + 8 : top}px`;
    };
    plot.addEventListener("pointermove", (event) => {
      let best = null, least = 28 ** 2;
      for (const mark of marks()) {
        const box = mark.getBoundingClientRect();
        const dx = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
        const dy = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
        const far = dx * dx + dy * dy;
        if (far < least) { least = far; best = mark; }
      }
      if (best === null) leave(); else if (best !== here) point(best, false);
    });
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("blur", leave);
    plot.addEventListener("keydown", (event) => {
      const every = marks(), step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") leave();
      if (!step || !every.length) return;
      event.preventDefault();
      const start = step > 0 ? -1 : every.length;
      const place = (here === null ? start : every.indexOf(here)) + step;
      point(every[(place + every.length) % every.length], true);
    });
  }
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      const figure = button.closest("figure");
      for (const group of figure.querySelectorAll(`.plot [data-series="${button.dataset.series}"]`))
        group.classList.toggle("off", !on);
    });
  }
})();

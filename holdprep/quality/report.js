// The report's page: one frame moves viewer, cursors of all curves and thumbnails.
"use strict";
(async () => {
  for (const stage of document.querySelectorAll("details.stage")) addEventListener("beforeprint", () => { stage.open = true; });
  const node = document.querySelector("script.scene");
  if (!node) return;
  const scene = await readScene(JSON.parse(node.textContent));
  const viewer = new Viewer(document.getElementById("viewer"), [scene], {
    kinds: ["picture", "space", "side"], single: true, shows: { masks: true, surface: false },
  });
  window.viewer = viewer;
  const charts = [...document.querySelectorAll(".curves svg[data-count]")];
  const place = (svg) => ({ count: Number(svg.dataset.count), left: Number(svg.dataset.left), width: Number(svg.dataset.width) });
  for (const svg of charts) {
    const go = (e) => {
      const { count, left, width } = place(svg), box = svg.getBoundingClientRect();
      const share = ((e.clientX - box.left) / box.width * svg.viewBox.baseVal.width - left) / width;
      viewer.goTo(Math.round(Math.min(1, Math.max(0, share)) * (count - 1)));
    };
    svg.addEventListener("pointerdown", go);
    svg.addEventListener("pointermove", (e) => { if (e.buttons & 1) go(e); });
  }
  viewer.listeners.push((number) => {
    for (const svg of charts) {
      const { count, left, width } = place(svg), x = left + (count > 1 ? number / (count - 1) : 0) * width;
      const cursor = svg.querySelector(".cursor");
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
    }
  });
  for (const link of document.querySelectorAll("[data-frame]"))
    link.addEventListener("click", (e) => {
      e.preventDefault();
      viewer.goTo(Number(link.dataset.frame));
      document.getElementById("viewer").scrollIntoView({ block: "start" });
    });
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries)
      if (isIntersecting) { seen.unobserve(target); draw(target); }
  });
  async function draw(button) {
    const canvas = button.querySelector("canvas"), at = scene.frames.indexOf(Number(button.dataset.frame));
    if (at < 0) return;
    canvas.width = 240;
    canvas.height = Math.round(240 * scene.size[1] / scene.size[0]);
    canvas.style.aspectRatio = `${scene.size[0]} / ${scene.size[1]}`;
    for (const entry of [scene.picture(at), scene.mask(at)]) {
      if (!entry) continue;
      await entry.ready;
      canvas.getContext("2d").drawImage(entry.bitmap, 0, 0, canvas.width, canvas.height);
    }
  }
  for (const button of document.querySelectorAll(".worst button")) seen.observe(button);
  viewer.go(0);
})();

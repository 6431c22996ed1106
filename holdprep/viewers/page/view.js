// Start of the page that shows sequences alone.
"use strict";
(async () => {
  const packs = [...document.querySelectorAll("script.scene")].map((node) => JSON.parse(node.textContent));
  const scenes = await Promise.all(packs.map(readScene));
  const options = JSON.parse(document.getElementById("options").textContent);
  window.viewer = new Viewer(document.getElementById("viewer"), scenes, options);
})();

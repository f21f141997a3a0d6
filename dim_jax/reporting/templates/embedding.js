// Draws interactive figures in the colours of the page when they are scrolled near the window, and frees them when they
// are far from it, because browsers limit the number of WebGL contexts. Without WebGL the static figure is shown.
(() => {
  "use strict";
  const canvas = document.createElement("canvas");
  const hasWebGL = Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  const options = {
    displaylogo: false, displayModeBar: true, responsive: true, scrollZoom: false,
    modeBarButtons: [["orbitRotation", "pan3d", "zoom3d", "resetCameraDefault3d", "toImage"]],
  };
  // Variables are resolved in values of colour keys only, so names of classes are never interpreted.
  const resolveColours = (text) => {
    const page = getComputedStyle(document.documentElement);
    return JSON.parse(text, (key, value) => {
      const variable = /color$/.test(key) && /^var\((--[\w-]+)\)$/.exec(value);
      return variable ? page.getPropertyValue(variable[1]).trim() : value;
    });
  };
  const draw = async (figure) => {
    const plot = figure.querySelector(".cloud");
    const spec = resolveColours(figure.querySelector("script").textContent);
    if (figure.camera) spec.layout.scene.camera = figure.camera;
    figure.dataset.rendered = "started";
    try {
      await Plotly.newPlot(plot, spec.data, spec.layout, options);
      figure.dataset.rendered = "yes";
    } catch (error) {
      delete figure.dataset.rendered;
      console.error("The t-SNE cannot be drawn:", error);
    }
  };
  const free = (figure) => {
    const plot = figure.querySelector(".cloud");
    figure.camera = plot.layout && plot.layout.scene.camera;
    Plotly.purge(plot);
    figure.dataset.rendered = "freed";
  };
  const figures = [...document.querySelectorAll("figure.embedding")];
  if (!hasWebGL || typeof Plotly === "undefined") {
    for (const figure of figures) figure.dataset.refused = "no WebGL";
    return;
  }
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) draw(target);
      else if (target.dataset.rendered === "yes") free(target);
    }
  }, { rootMargin: "600px" });
  for (const figure of figures) near.observe(figure);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const figure of figures) {
      if (figure.dataset.rendered !== "yes") continue;
      free(figure);
      draw(figure);
    }
  });
})();

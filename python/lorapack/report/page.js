// Draws every figure. `ast` keeps Vega from making functions out of text, which the page's content
// security policy forbids; the SVG renderer lets colours be the page's own variables.
(async () => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const options = { actions: false, renderer: "svg", ast: true };
  const plots = [...document.querySelectorAll("[data-figure]")];
  await Promise.all(plots.map((plot) => vegaEmbed(plot, specs[plot.dataset.figure], options)));
  document.documentElement.dataset.drawn = String(plots.length);
})();

// Draws every figure in the page's own colours, and again when those or the width change.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const config = { displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]], responsive: false };

  // the legend stands below the plot in as many rows as the width asks for; the height grows by them
  function legendRows(data, width) {
    const longest = Math.max(0, ...data.map((trace) => (trace.name || "").length));
    const each = Math.max(1, Math.floor((width - 20) / (longest * 7.2 + 52)));
    return Math.ceil(data.length / each);
  }

  function themed(figure, width) {
    const ink = colour("--ink"), grid = colour("--grid"), card = colour("--card");
    const axis = { gridcolor: grid, linecolor: grid, tickcolor: grid, zerolinecolor: grid };
    const legend = legendRows(figure.data, width) * 21 + 8;
    return {
      ...figure.layout,
      width,
      height: 380 + legend,
      margin: { ...figure.layout.margin, b: 56 + legend },
      legend: { orientation: "h", x: 0, xanchor: "left", xref: "container", y: 0, yanchor: "bottom", yref: "container", bgcolor: "rgba(0,0,0,0)" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 13, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: card, bordercolor: grid, font: { color: ink } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: ink },
      xaxis: { ...figure.layout.xaxis, ...axis },
      yaxis: { ...figure.layout.yaxis, ...axis },
    };
  }

  function draw() {
    for (const [name, figure] of Object.entries(figures)) {
      const place = document.getElementById("figure-" + name);
      Plotly.react(place, figure.data, themed(figure, place.clientWidth), config);
    }
  }

  draw();
  let width = window.innerWidth, timer;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's address bar changes the height alone
    width = window.innerWidth;
    clearTimeout(timer);
    timer = setTimeout(draw, 100);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.matchMedia("print").addEventListener("change", draw);
})();

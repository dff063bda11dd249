// What the page does beyond being read: tables sort, filter and choose columns; figures are drawn in the page's own
// colours and give their data. Names are set as text, never as markup.
(() => {
  "use strict";
  const root = document.documentElement;
  const HIDEABLE = 6; // columns that matter less start hidden where the table is too wide

  function make(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // ---- tables

  const collator = new Intl.Collator("en", { numeric: true }); // r=4 before r=16
  const searchable = (text) => text.toLowerCase().replaceAll("−", "-").replace(/\s+/g, " ");

  // a number, a text, or null for what was not measured
  function key(cell) {
    const raw = cell.dataset.value;
    if (raw === undefined) return cell.firstChild ? cell.firstChild.textContent.trim() : "";
    return raw === "" || !Number.isFinite(Number(raw)) ? null : Number(raw);
  }

  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null); // absent values last, whichever way
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b));
  }

  function enhance(box) {
    const table = box.querySelector("table");
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const rows = [...body.rows].map((row) => {
      const cells = [...row.cells];
      return { row, keys: cells.map(key), texts: cells.map((cell) => searchable(cell.textContent)) };
    });
    if (rows.length < 2) return;
    const names = heads.map((head) => head.textContent), shown = heads.map(() => true);

    function sort(head, i) {
      const way = { ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      const order = [...rows]; // the study's
      if (way !== null) {
        head.setAttribute("aria-sort", way || "ascending");
        order.sort((a, b) => compare(a.keys[i], b.keys[i], way ? -1 : 1));
      }
      body.append(...order.map(({ row }) => row));
      box.scrollTop = 0;
    }
    heads.forEach((head, i) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      if (head.title) button.title = head.title;
      head.removeAttribute("title");
      head.append(button);
      button.addEventListener("click", () => sort(head, i));
    });

    const field = make("input", { type: "search", name: "filter", placeholder: "Filter by words", "aria-label": "Filter: all words must occur in a row" });
    const count = make("output", { role: "status" });
    const noun = names[0].trim() === "condition" ? "conditions" : "rows";
    function filter() {
      const words = searchable(field.value).split(" ").filter(Boolean);
      let left = 0;
      for (const { row, texts } of rows) {
        const text = texts.filter((_, i) => shown[i]).join(" "); // a hit in a hidden column would puzzle
        const hit = words.every((word) => text.includes(word));
        row.hidden = !hit;
        left += hit;
      }
      count.textContent = (words.length ? `${left} of ` : "") + `${rows.length} ${noun}`;
    }
    field.addEventListener("input", filter);

    const summary = make("summary"), all = make("button", { type: "button" }, "Show all");
    const labels = heads.map((head, i) => {
      const box = make("input", { type: "checkbox", name: "column", checked: "" });
      box.addEventListener("change", () => { show(i, box.checked); settle(); });
      return make("label", {}, box, head.innerText.replace(/\s*\n\s*/g, ", "));
    });
    const menu = make("details", {}, summary, make("div", { class: "menu" }, ...labels.slice(1), all));
    function show(i, on) {
      shown[i] = on;
      labels[i].firstChild.checked = on;
      for (const row of table.rows) row.cells[i].hidden = !on;
    }
    function settle() {
      const some = shown.filter(Boolean).length;
      summary.textContent = some === shown.length ? "Columns" : `Columns (${some} of ${shown.length})`;
      filter();
    }
    all.addEventListener("click", () => { heads.forEach((_, i) => show(i, true)); settle(); });
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { menu.open = false; summary.focus(); }
    });
    document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });

    box.before(make("div", { class: "tools" }, field, count, menu));
    const importance = heads.map((head) => Number(head.dataset.importance));
    for (const level of [...new Set(importance)].sort((a, b) => b - a)) {
      if (level <= HIDEABLE || box.scrollWidth <= box.clientWidth) break;
      heads.forEach((_, i) => { if (i && importance[i] === level) show(i, false); });
    }
    settle();
  }

  // ---- a figure's data as CSV

  const TYPES = { i1: Int8Array, u1: Uint8Array, u1c: Uint8ClampedArray, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };

  // plotly writes numpy arrays as base64; a shape "2, 3" makes rows of them
  function values(given) {
    if (given === undefined || given === null) return [];
    if (given.bdata === undefined) return Array.from(given);
    const flat = Array.from(new TYPES[given.dtype](Uint8Array.from(atob(given.bdata), (c) => c.charCodeAt(0)).buffer));
    const [height, width] = String(given.shape || "").split(",").map(Number);
    return width ? Array.from({ length: height }, (_, i) => flat.slice(i * width, (i + 1) * width)) : flat;
  }

  // plotly's texts are escaped and may have tags such as <br>
  const unescaped = (text) => text.replace(/<[^>]*>/g, " ").replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

  function quoted(value) {
    if (value === undefined || value === null || Number.isNaN(value)) return "";
    if (typeof value === "number") return String(value);
    const text = unescaped(String(value)), safe = /^[=+\-@\t\r]/.test(text) ? "'" + text : text; // no spreadsheet takes it for a formula
    return /[",\r\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  }

  // plus and minus of error bars; minus is absent where the bar is symmetric
  function errors(bars) {
    if (!bars || bars.visible === false) return () => ({});
    const plus = values(bars.array), minus = values(bars.arrayminus);
    return (i) => ({ plus: plus[i] ?? bars.value, minus: bars.symmetric === true ? undefined : minus[i] ?? bars.valueminus });
  }

  function points(trace) {
    const series = trace.name, x = values(trace.x), y = values(trace.y), z = values(trace.z);
    if (z.length) {
      return z.flatMap((row, i) => values(row).map((value, j) => ({ series, y: y[i] ?? i, x: x[j] ?? j, z: value })));
    }
    const ofX = errors(trace.error_x), ofY = errors(trace.error_y);
    return Array.from({ length: Math.max(x.length, y.length) }, (_, i) => {
      const a = ofX(i), b = ofY(i);
      return { series, x: x[i], y: y[i], xPlus: a.plus, xMinus: a.minus, yPlus: b.plus, yMinus: b.minus };
    });
  }

  // what is shown now: a menu may have put other points into the traces
  function csv({ data, layout }) {
    const traces = data.filter((trace) => trace.visible === undefined || trace.visible === true);
    const rows = traces.flatMap(points), flat = traces.find((trace) => trace.z);
    const title = (axis) => {
      const axes = traces.map((trace) => layout[(trace[axis + "axis"] || axis).replace(/^[xy]/, "$&axis")]);
      const found = new Set(axes.map((one) => one?.title?.text));
      if (found.size === 1 && axes[0]?.title?.text) return axes[0].title.text;
      return flat ? { x: "column", y: "row" }[axis] : axes[0]?.type === "category" ? "label" : axis;
    };
    const heads = flat
      ? { series: "series", y: title("y"), x: title("x"), z: flat.colorbar?.title?.text || "value" }
      : { series: "series", x: title("x"), y: title("y"), yPlus: "error", yMinus: "error minus", xPlus: "x error", xMinus: "x error minus" };
    const used = Object.keys(heads).filter((column) => rows.some((row) => row[column] !== undefined));
    const lines = rows.map((row) => used.map((column) => quoted(row[column])));
    return [used.map((column) => quoted(heads[column])), ...lines].map((line) => line.join(",") + "\r\n").join("");
  }

  function download(name, text) {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const fileName = (text) => text.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+/, "");

  // ---- figures

  const PAPER = 680; // pixels: what the margins of A4 and Letter leave
  const printing = () => root.classList.contains("paper");
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const config = { displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]], responsive: false };

  // the legend stands below the plot in as many rows as the width asks for; the height grows by them
  function legendHeight({ data, layout }, width) {
    if (layout.showlegend === false) return 0;
    const longest = Math.max(0, ...data.map((trace) => unescaped(trace.name || "").length));
    const each = Math.max(1, Math.floor((width - 20) / (longest * 7.2 + 52)));
    return Math.ceil(data.length / each) * 21 + 8;
  }

  function themed(figure, width) {
    const { layout } = figure, ink = colour("--ink"), grid = colour("--grid"), legend = legendHeight(figure, width);
    const axis = { gridcolor: grid, linecolor: grid, tickcolor: grid, zerolinecolor: grid };
    const axes = Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name)).map((name) => [name, { ...layout[name], ...axis }]);
    return {
      ...layout,
      ...Object.fromEntries(axes),
      width,
      height: ((layout.height || 430) - 50) * (printing() ? 0.8 : 1) + legend, // two to a sheet
      margin: { ...layout.margin, b: 56 + legend },
      legend: { orientation: "h", x: 0, xanchor: "left", xref: "container", y: 0, yanchor: "bottom", yref: "container", bgcolor: "rgba(0,0,0,0)" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 13, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: grid, font: { color: ink } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: ink },
    };
  }

  function draw(drawing) {
    const { figure, place } = drawing;
    drawing.drawn = true;
    Plotly.react(place, figure.data, themed(figure, printing() ? PAPER : place.clientWidth), config);
  }

  // plotly's own menus cannot be reached by keyboard and have no dark colours, so the page has selects in their place
  function menus({ figure, place }, redraw) {
    const own = (menu) => menu.buttons.every((button) => button.method === "restyle");
    const given = figure.layout.updatemenus || [];
    const made = given.filter(own).map((menu) => {
      const options = menu.buttons.map((button) => make("option", {}, unescaped(button.label)));
      const choice = make("select", { name: "choice", "aria-label": "shown in the figure" }, ...options);
      choice.selectedIndex = menu.active || 0;
      choice.addEventListener("change", () => { redraw(); Plotly.restyle(place, ...menu.buttons[choice.selectedIndex].args); });
      return choice;
    });
    if (made.length) figure.layout = { ...figure.layout, updatemenus: given.filter((menu) => !own(menu)), margin: { ...figure.layout.margin, t: 30 } };
    return made;
  }

  function figures() {
    const holder = document.getElementById("figures");
    if (!holder) return;
    const study = document.querySelector("h1").textContent;
    const drawings = Object.entries(JSON.parse(holder.textContent)).map(([name, figure]) => {
      const drawing = { figure, place: document.getElementById("figure-" + name), drawn: false };
      const button = make("button", { type: "button", title: "Download the figure's data as shown" }, "CSV");
      button.addEventListener("click", () => download(fileName(`${study}-${name}`) + ".csv", csv(figure)));
      drawing.place.previousElementSibling.append(...menus(drawing, () => drawing.drawn || draw(drawing)), button);
      return drawing;
    });
    // heights first, so that nothing moves when a figure comes
    for (const { figure, place } of drawings) place.style.minHeight = themed(figure, place.clientWidth).height + "px";

    // what is near is drawn at once, the rest one by one when there is nothing else to do
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((e) => e.isIntersecting)) {
        const drawing = drawings.find((d) => d.place === entry.target);
        if (!drawing.drawn) draw(drawing);
        near.unobserve(entry.target);
      }
    }, { rootMargin: "600px" });
    drawings.forEach(({ place }) => near.observe(place));
    const idle = window.requestIdleCallback || ((work) => setTimeout(work, 50));
    idle(function next() {
      const drawing = drawings.find((d) => !d.drawn);
      if (!drawing) return;
      draw(drawing);
      idle(next);
    });

    const again = () => drawings.filter((d) => d.drawn).forEach(draw);
    let width = window.innerWidth, timer;
    window.addEventListener("resize", () => {
      if (window.innerWidth === width) return; // a phone's address bar changes the height alone
      width = window.innerWidth;
      clearTimeout(timer);
      timer = setTimeout(again, 100);
    });
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    window.addEventListener("beforeprint", () => { root.classList.add("paper"); drawings.forEach(draw); });
    window.addEventListener("afterprint", () => { root.classList.remove("paper"); again(); });
  }

  // ---- the section being read is marked among the links

  function reading() {
    const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
    const seen = new IntersectionObserver((entries) => {
      const here = entries.find((entry) => entry.isIntersecting);
      if (!here) return;
      links.forEach((link) => link.removeAttribute("aria-current"));
      const link = links.get(here.target.id);
      link.setAttribute("aria-current", "true");
      link.parentElement.scrollTo({ left: link.offsetLeft - 40 });
    }, { rootMargin: "-15% 0px -80% 0px" });
    document.querySelectorAll("main > section").forEach((section) => seen.observe(section));
  }

  for (const table of document.querySelectorAll(".results")) enhance(table.parentElement);
  document.addEventListener("DOMContentLoaded", () => { reading(); figures(); }); // plotly stands below this script
})();

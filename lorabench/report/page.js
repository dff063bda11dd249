// What the page does beyond being read: tables sort, filter and choose columns; figures are drawn in the page's own
// colours and give their data; panels choose. Names are set as text, never as markup.
(() => {
  "use strict";
  const root = document.documentElement;
  const HIDEABLE = window.innerWidth < 1180 ? 6 : 3; // columns that matter less start hidden where the table is too wide; a wide screen shows all of it, a narrow one lets it scroll

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
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
  function values(array) {
    if (array === undefined || array === null) return [];
    if (array.bdata === undefined) return Array.from(array);
    const flat = Array.from(new TYPES[array.dtype](Uint8Array.from(atob(array.bdata), (c) => c.charCodeAt(0)).buffer));
    const [height, width] = String(array.shape || "").split(",").map(Number);
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
      const titles = new Set(axes.map((one) => one?.title?.text));
      if (titles.size === 1 && axes[0]?.title?.text) return axes[0].title.text;
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
    const listed = data.filter((trace) => !trace.legendgroup || trace.showlegend !== false); // of a group one entry stands for all
    const longest = Math.max(0, ...listed.map((trace) => unescaped(trace.name || "").length));
    const each = Math.max(1, Math.floor((width - 20) / (longest * 7.2 + 52)));
    return Math.ceil(listed.length / each) * 21 + 8;
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
    drawing.isDrawn = true;
    Plotly.react(place, figure.data, themed(figure, printing() ? PAPER : place.clientWidth), config);
  }

  // plotly's own menus cannot be reached by keyboard and have no dark colours, so the page has selects in their place
  function menus({ figure, place }, redraw) {
    const own = (menu) => menu.buttons.every((button) => button.method === "restyle");
    const declared = figure.layout.updatemenus || [];
    const selects = declared.filter(own).map((menu) => {
      const options = menu.buttons.map((button) => make("option", {}, unescaped(button.label)));
      const choice = make("select", { name: "choice", "aria-label": "shown in the figure" }, ...options);
      choice.selectedIndex = menu.active || 0;
      choice.addEventListener("change", () => { redraw(); Plotly.restyle(place, ...menu.buttons[choice.selectedIndex].args); });
      return choice;
    });
    if (selects.length) figure.layout = { ...figure.layout, updatemenus: declared.filter((menu) => !own(menu)), margin: { ...figure.layout.margin, t: 30 } };
    return selects;
  }

  function figures() {
    const holder = document.getElementById("figures");
    if (!holder) return;
    const study = document.querySelector("h1").textContent;
    const drawings = Object.entries(JSON.parse(holder.textContent)).map(([name, figure]) => {
      const drawing = { figure, place: document.getElementById("figure-" + name), isDrawn: false };
      const button = make("button", { type: "button", title: "Download the figure's data as shown" }, "CSV");
      button.addEventListener("click", () => download(fileName(`${study}-${name}`) + ".csv", csv(figure)));
      drawing.place.previousElementSibling.append(...menus(drawing, () => drawing.isDrawn || draw(drawing)), button);
      return drawing;
    });
    // heights first, so that nothing moves when a figure comes
    for (const { figure, place } of drawings) place.style.minHeight = themed(figure, place.clientWidth).height + "px";

    // what is near is drawn at once, the rest one by one when there is nothing else to do
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((e) => e.isIntersecting)) {
        const drawing = drawings.find((d) => d.place === entry.target);
        if (!drawing.isDrawn) draw(drawing);
        near.unobserve(entry.target);
      }
    }, { rootMargin: "600px" });
    drawings.forEach(({ place }) => near.observe(place));
    const idle = window.requestIdleCallback || ((work) => setTimeout(work, 50));
    idle(function next() {
      const drawing = drawings.find((d) => !d.isDrawn);
      if (!drawing) return;
      draw(drawing);
      idle(next);
    });

    const again = () => drawings.filter((d) => d.isDrawn).forEach(draw);
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

  // ---- panels: the choice at a memory and a tolerated loss. The rule is advice/selection.py's: rows come in its order, each with the least
  // tolerated loss at which it is good enough, so the first that fits and is good enough is chosen

  const fits = (row, memory) => memory === null || (row.peak !== null && row.peak <= memory);
  const enough = (row, tolerated) => row.needed !== null && row.needed <= tolerated;
  const digits = (value, most = 3) => String(Number(value.toPrecision(most)));
  const upwards = (value) => { const one = 10 ** (Math.floor(Math.log10(value)) - 2); return value > 0 ? Math.ceil(value / one) * one : 0; };

  function standing(row, picked, memory, tolerated) {
    if (row === picked) return "chosen";
    if (!fits(row, memory)) return row.peak === null ? "memory unknown" : "does not fit";
    if (enough(row, tolerated)) return "good enough, not the smallest";
    if (row.bound === null) return "no evidence";
    return row.needed !== null && row.bound <= tolerated ? "a higher rank is not shown to be good enough" : "not shown to be good enough"; // what is not shown may be so all the same
  }

  function chosenSentence({ best, rows }, picked, memory, limit, tolerated, loss) {
    const within = memory === null ? "With no memory limit" : `Within ${limit}`;
    if (!picked) {
      const near = rows.filter((row) => fits(row, memory) && row.needed !== null).sort((a, b) => a.needed - b.needed)[0];
      const left = rows.some((row) => fits(row, memory)) ? "Nothing that fits is shown to be near it." : "Nothing fits.";
      return `${within}, nothing is shown to be within ${loss(tolerated)} of ${best}, the best. ` + (near ? `The nearest that fits is ${near.label}: within ${loss(upwards(near.needed))}.` : left);
    }
    const about = `${picked.label} (${picked.parameters} trained parameters, train peak ${picked.memory})`;
    if (picked.label === best) return `${within}: ${about}, the best by its mean. Nothing before it in the table fits and is shown to be within ${loss(tolerated)} of it.`;
    return `${within}: ${about}, the fewest trained parameters that are not worse than ${best}, the best, by more than ${loss(tolerated)} (${picked.evidence}).`;
  }

  // the parser knows SVG's namespace, which is written as an address: a page that asks for nothing holds none
  const drawing = new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;

  function svg(tag, attributes, ...children) {
    const element = document.createElementNS(drawing, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function ticks(low, high, most) {
    const raw = (high - low) / most, ten = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find((s) => s * ten >= raw) * ten;
    return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, i) => (Math.ceil(low / step) + i) * step);
  }

  // loss against memory: open points do not fit or are not good enough; the axes stay where they are as the controls move
  function plane({ factor, tolerated: margin, unit }, rows, picked, memory, tolerated, width) {
    const points = rows.filter((row) => row.peak !== null);
    if (!points.length) return "";
    const height = 310, left = 56, right = width - 12, top = 22, bottom = height - 46;
    const one = Math.max(...points.map((row) => row.peak)) >= 1e9 ? 1e9 : 1e6;
    const peaks = points.map((row) => row.peak), span = Math.max(...peaks) - Math.min(...peaks) || Math.max(...peaks) * 0.1;
    const x0 = Math.min(...peaks) - 0.08 * span, x1 = Math.max(...peaks) + 0.12 * span;
    const losses = points.map((row) => row.worse).sort((a, b) => a - b), far = Math.max(...points.map((row) => Math.max(row.worse, row.bound ?? 0)));
    const high = 1.06 * (Math.max(Math.min(far, 3 * losses[Math.floor(0.75 * (losses.length - 1))]), 1.2 * margin) || 1), low = Math.min(0, losses[0]) - 0.07 * high;
    const x = (value) => left + ((value - x0) / (x1 - x0)) * (right - left), y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
    const text = (content, px, py, anchor, kind = "") => svg("text", { x: px, y: py, "text-anchor": anchor, class: kind }, content);
    const line = (ax, ay, bx, by, kind) => svg("line", { x1: ax, y1: ay, x2: bx, y2: by, class: kind });
    const marks = [];
    for (const t of ticks(low * factor, high * factor, 5)) marks.push(line(left, y(t / factor), right, y(t / factor), "grid"), text(digits(t), left - 7, y(t / factor) + 4, "end"));
    for (const t of ticks(x0 / one, x1 / one, width < 500 ? 4 : 7)) marks.push(text(digits(t), x(t * one), bottom + 18, "middle"));
    marks.push(text(`train peak (${one === 1e9 ? "GB" : "MB"})`, (left + right) / 2, height - 6, "middle"));
    marks.push(text(`worse than the best by${unit ? ` (${unit})` : ""}`, 0, 13, "start"));
    if (memory !== null && memory < x1) {
      const from = Math.max(left, x(memory)), side = from > (left + right) / 2 ? "end" : "start";
      marks.push(svg("rect", { x: from, y: top, width: right - from, height: bottom - top, class: "beyond" }), line(from, top, from, bottom, "limit"));
      marks.push(text("memory", from + (side === "end" ? -5 : 5), bottom - 6, side));
    }
    if (tolerated <= high) marks.push(line(left, y(tolerated), right, y(tolerated), "limit"), text("tolerated", left + 5, y(tolerated) - 5, "start"));
    const front = points.filter((row) => fits(row, memory)).sort((a, b) => a.peak - b.peak || a.worse - b.worse);
    const steps = front.filter((row, i) => front.slice(0, i).every((before) => before.worse > row.worse));
    marks.push(svg("polyline", { points: steps.map((row) => `${x(row.peak)},${y(Math.min(row.worse, high))}`).join(" "), class: "front" }));
    for (const row of points) {
      const px = x(row.peak), py = y(row.worse), good = fits(row, memory) && enough(row, tolerated), said = `${row.label}: ${row.beside} at ${row.memory}`;
      const fill = good ? row.colour : "var(--paper)", mark = { stroke: row.colour, style: `fill: ${fill}` };
      if (row.bound !== null && row.bound > row.worse && row.worse < high) marks.push(svg("line", { x1: px, y1: py, x2: px, y2: y(Math.min(row.bound, high)), stroke: row.colour }));
      const shape = row.worse > high ? svg("path", { d: `M${px - 5},${top + 9}h10l-5,-9z`, ...mark }) : svg("circle", { cx: px, cy: py, r: 5, ...mark });
      shape.append(svg("title", {}, said));
      marks.push(shape);
    }
    if (picked && picked.peak !== null) {
      const px = x(picked.peak), py = y(Math.min(picked.worse, high)), side = px > (left + right) / 2 ? "end" : "start";
      const letters = Math.floor(((side === "end" ? px - left : right - px) - 15) / 7.5), name = picked.label.length > letters ? picked.label.slice(0, letters - 1) + "…" : picked.label;
      marks.push(svg("circle", { cx: px, cy: py, r: 10, class: "ring" }), text(name, px + (side === "end" ? -15 : 15), py - 8, side, "picked"));
    }
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "Loss against the best, by train peak; its numbers are in the table" }, ...marks);
  }

  // the words of a text, each on one line: a browser would break 3e-05 after its hyphen
  const unbroken = (words) => words.split(" ").flatMap((word, i) => [i ? " " : "", word.includes("e-") ? make("span", { class: "number" }, word) : word]);

  function panel(box) {
    const settings = JSON.parse(box.querySelector("script").textContent), { groups, factor, most } = settings;
    let memory = null, limit = "", tolerated = settings.tolerated;
    const loss = (value) => `${digits(value * factor, 6)} ${settings.unit === "points" && value * factor === 1 ? "point" : settings.unit}`.trim();
    const entries = (pairs, title) => (pairs.length ? [make("optgroup", { label: title }, ...pairs.map(([name], i) => make("option", { value: `${title} ${i}` }, name)))] : []);
    const choices = [["In this study", settings.sizes], ["Cards", settings.cards]];
    const group = make("select", { name: "group" }, ...groups.map((c) => make("option", {}, c.name)));
    const card = make("select", { name: "card" }, make("option", { value: "none" }, "no limit"), ...choices.flatMap(([title, pairs]) => entries(pairs, title)), make("option", { value: "own" }, "as typed"));
    const size = make("input", { type: "number", name: "size", min: 0, step: "any", inputmode: "decimal", placeholder: "no limit", "aria-label": "Memory size" });
    const unit = make("select", { name: "unit", "aria-label": "Unit of the memory size" }, make("option", {}, "MB"), make("option", {}, "GB"));
    const range = make("input", { type: "range", name: "range", min: 0, max: 1, step: 0.005, "aria-label": "Tolerated loss, as a slider" });
    const amount = make("input", { type: "number", name: "tolerated", min: 0, step: "any", inputmode: "decimal", "aria-label": `Tolerated loss${settings.unit ? ` in ${settings.unit}` : ""}` });
    const answer = make("p", { class: "answer", role: "status", "aria-live": "polite" }), place = make("div", { class: "plane" });
    const heads = ["option", "at these settings", "trained", "train peak", settings.metric, `worse by [bound]${settings.unit ? `, ${settings.unit}` : ""}`];
    const body = make("tbody"), head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col", class: "left" }, name)));
    const table = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Options" }, make("table", { class: "grid" }, make("thead", {}, head), body));
    const field = (name, ...parts) => make("label", {}, make("span", {}, name), ...parts);
    const controls = [field("Card", card), field("Memory", make("span", { class: "pair" }, size, unit)), field(`Tolerated loss${settings.unit ? ` (${settings.unit})` : ""}`, make("span", { class: "pair" }, range, amount))];
    box.querySelector("figcaption").before(make("div", { class: "controls" }, ...(groups.length > 1 ? [field("Of", group)] : []), ...controls), answer, make("div", { class: "shown" }, place, table));

    let width = 0, touched = false;
    box.addEventListener("input", () => { touched = true; }, true);
    box.addEventListener("change", () => { touched = true; }, true);
    function draw() {
      width = Math.min(place.clientWidth, 760);
      const now = groups[group.selectedIndex], picked = now.rows.find((row) => fits(row, memory) && enough(row, tolerated));
      answer.textContent = chosenSentence(now, picked, memory, limit, tolerated, loss);
      body.replaceChildren(...now.rows.map((row) => {
        const swatch = make("span", { class: "swatch" }), out = fits(row, memory) && enough(row, tolerated) ? "" : "out";
        swatch.style.background = row.colour;
        const cells = [standing(row, picked, memory, tolerated), row.parameters, row.memory, row.value];
        return make("tr", { class: row === picked ? "chosen" : out }, make("th", { scope: "row", class: "left" }, swatch, row.label), ...cells.map((content) => make("td", { class: "left" }, content)), make("td", { class: "left" }, ...unbroken(row.beside)));
      }));
      const row = body.querySelector(".chosen");
      if (row && touched) { // the table opens at its top; later the chosen row is kept in view
        const above = row.offsetTop - head.offsetHeight, below = row.offsetTop + row.offsetHeight - table.clientHeight;
        table.scrollTop = Math.min(above, Math.max(below, table.scrollTop));
      }
      place.replaceChildren(plane(settings, now.rows, picked, memory, tolerated, width));
    }
    const slide = () => { range.value = Math.sqrt(Math.min(1, tolerated / most)); range.setAttribute("aria-valuetext", loss(tolerated)); };
    group.addEventListener("change", draw);
    card.addEventListener("change", () => {
      const [title, i] = [card.value.replace(/ \d+$/, ""), Number(card.value.match(/\d+$/))], choice = choices.find(([name]) => name === title);
      if (card.value === "own") { size.focus(); return; }
      [limit, memory] = choice ? choice[1][i] : ["", null];
      if (memory !== null) unit.value = memory >= 1e9 ? "GB" : "MB";
      size.value = memory === null ? "" : digits(memory / (unit.value === "GB" ? 1e9 : 1e6));
      draw();
    });
    const typed = () => {
      const number = size.value === "" ? null : Number(size.value);
      memory = number === null ? null : number * (unit.value === "GB" ? 1e9 : 1e6);
      limit = `${size.value} ${unit.value}`;
      card.value = memory === null ? "none" : "own";
      draw();
    };
    size.addEventListener("input", typed);
    unit.addEventListener("change", typed);
    range.addEventListener("input", () => {
      tolerated = Number((most * range.value ** 2).toPrecision(2));
      amount.value = digits(tolerated * factor);
      range.setAttribute("aria-valuetext", loss(tolerated));
      draw();
    });
    amount.addEventListener("input", () => { tolerated = Math.max(0, Number(amount.value)) / factor; slide(); draw(); });
    amount.value = digits(tolerated * factor, 6);
    slide();
    draw();
    new ResizeObserver(() => { if (Math.min(place.clientWidth, 760) !== width) draw(); }).observe(place);
  }

  // ---- a box that holds more than it shows fades where it goes on

  function fading(box) {
    const look = () => {
      box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
      box.classList.toggle("more-below", box.scrollTop + box.clientHeight < box.scrollHeight - 2);
    };
    box.addEventListener("scroll", look, { passive: true });
    const observer = new ResizeObserver(look);
    observer.observe(box);
    if (box.firstElementChild) observer.observe(box.firstElementChild);
    look();
  }

  // ---- the section being read is marked among the links

  function reading() {
    const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
    const observer = new IntersectionObserver((entries) => {
      const here = entries.find((entry) => entry.isIntersecting);
      if (!here) return;
      links.forEach((link) => link.removeAttribute("aria-current"));
      const link = links.get(here.target.id);
      link.setAttribute("aria-current", "true");
      link.parentElement.scrollTo({ left: link.offsetLeft - 40 });
    }, { rootMargin: "-15% 0px -80% 0px" });
    document.querySelectorAll("main > section").forEach((section) => observer.observe(section));
  }

  for (const table of document.querySelectorAll(".results")) enhance(table.parentElement);
  document.querySelectorAll(".panel").forEach(panel);
  document.querySelectorAll(".scroll, nav").forEach(fading);
  document.addEventListener("DOMContentLoaded", () => { reading(); figures(); }); // plotly stands below this script
})();

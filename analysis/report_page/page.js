"use strict";
// What the page does: sorts and filters the table, and draws the curves that are chosen. The data stand in the page as
// JSON; a metric is parsed when it is first looked at.

const $ = (id) => document.getElementById(id);
const read = (id) => JSON.parse($(id).textContent);
const page = read("page-data");
const dark = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = 7;
const DASHES = ["solid", "dash", "dashdot", "longdash"];
const BORDERS = ["solid", "dashed", "dotted", "double"];
const MARKED = 30; // Curves of at most so many points show them.

// The table

const body = $("table").tBodies[0];
const rows = [...body.rows].map((element, run) => ({
  element, run, status: element.dataset.status, text: element.textContent.toLowerCase(),
}));
const visible = new Set(rows.map((row) => row.run));

/** Numbers before texts, what is not recorded last, whatever the direction. */
function compare(a, b, sign) {
  if (a === b) return 0;
  if (a === "" || b === "") return a === "" ? 1 : -1;
  const [x, y] = [Number(a), Number(b)];
  if (Number.isNaN(x) !== Number.isNaN(y)) return sign * (Number.isNaN(x) ? 1 : -1);
  return sign * (Number.isNaN(x) ? a.localeCompare(b, "en", { numeric: true }) : x - y);
}

function sort(index, descending) {
  const key = (row) => row.element.cells[index].dataset.key ?? "";
  const keyed = rows.map((row) => [key(row), row]);
  keyed.sort(([a, x], [b, y]) => compare(a, b, descending ? -1 : 1) || x.run - y.run);
  body.append(...keyed.map(([, row]) => row.element));
  for (const head of $("table").tHead.rows[0].cells) head.removeAttribute("aria-sort");
  $("table").tHead.rows[0].cells[index].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

function sorted() {
  const heads = [...$("table").tHead.rows[0].cells];
  const index = heads.findIndex((head) => head.hasAttribute("aria-sort"));
  return { index, descending: heads[index].getAttribute("aria-sort") === "descending" };
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  visible.clear();
  for (const row of rows) {
    const shown = (!$("status").value || row.status === $("status").value) && words.every((word) => row.text.includes(word));
    row.element.hidden = !shown;
    if (shown) visible.add(row.run);
  }
  $("shown").textContent = `${visible.size} of ${rows.length} runs`;
  charts.forEach((chart) => chart.draw());
}

/** Puts the last values of a metric into the table. */
function showFinal(metric) {
  const { index, descending } = sorted();
  const column = $("final").closest("th").cellIndex;
  $("final").textContent = `final ${page.metrics[metric]}`;
  for (const row of rows) {
    const value = page.final[metric][row.run];
    const cell = row.element.cells[column];
    cell.textContent = value === null ? "–" : String(value);
    cell.dataset.key = value ?? "";
    row.text = row.element.textContent.toLowerCase();
  }
  if (index === column) sort(index, descending);
}

// The charts

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (group) => css(`--c${group % COLOURS}`);
const style = (group) => Math.floor(group / COLOURS) % DASHES.length;
/** Plotly reads some HTML in texts, and % as the start of a field. */
const plain = (text) => String(text).replace(/[&<>%]/g, (sign) => `&#${sign.charCodeAt(0)};`);

/** One chart with its legend. `read()` gives {curves, bands, x, y, key}; axes keep their range while the key stays. */
class Chart {
  constructor(name, read) {
    this.element = $(`${name}-chart`);
    this.legend = $(`${name}-legend`);
    this.read = read;
    this.off = new Set();
  }

  draw() {
    this.data = this.read();
    const shown = this.data.curves.filter((curve) => visible.has(curve.run));
    const groups = [...new Set(shown.map((curve) => page.runs[curve.run].group))].sort((a, b) => a - b);
    this.label(groups, shown);
    const traces = [];
    for (const group of groups.filter((group) => !this.off.has(group))) {
      const mine = shown.filter((curve) => page.runs[curve.run].group === group);
      const band = this.data.bands.find((band) => band.group === group && band.y.length);
      const alone = this.data.show === "runs" || !band;
      if (this.data.show !== "groups" || !band) traces.push(...this.runs(group, mine, alone));
      if (this.data.show !== "runs" && band) traces.push(...this.band(group, band));
    }
    Plotly.react(this.element, traces, this.layout(traces), {
      responsive: true, displaylogo: false, doubleClick: "reset+autosize", doubleClickDelay: 500,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: this.data.y.replace(/\W+/g, "_") },
    });
  }

  /** The runs of a group as one line with gaps, which is drawn much faster than many lines; a second one if some did not complete. */
  runs(group, curves, alone) {
    const done = (curve) => page.runs[curve.run].status === "COMPLETED";
    return [true, false].map((complete) => {
      const chosen = curves.filter((curve) => done(curve) === complete);
      const trace = { x: [], y: [], customdata: [] };
      for (const curve of chosen) {
        const { name, seed } = page.runs[curve.run];
        const data = [plain(name), plain(seed ?? "not recorded"), plain(page.groups[group])];
        trace.x.push(...curve.x, null);
        trace.y.push(...curve.y, null);
        trace.customdata.push(...curve.x.map(() => data), data);
      }
      const marked = chosen.every((curve) => curve.x.length <= MARKED);
      const hover = `run %{customdata[0]}, seed %{customdata[1]}<br>${plain(this.data.x)} %{x}<br>${plain(this.data.y)} %{y:.6~g}<extra>%{customdata[2]}</extra>`;
      return {
        ...trace, type: "scatter", mode: marked ? "lines+markers" : "lines", hovertemplate: hover, connectgaps: false,
        opacity: alone ? 0.85 : 0.35, marker: { size: alone ? 5 : 4 }, meta: "runs",
        line: { color: colour(group), width: alone ? 1.5 : 1, dash: complete ? DASHES[style(group)] : "dot" },
      };
    }).filter((trace) => trace.x.length);
  }

  band(group, band) {
    const line = { color: colour(group), width: 2.5, dash: DASHES[style(group)] };
    const traces = [];
    const inside = band.x.map((_, i) => i).filter((i) => band.low[i] !== null && band.high[i] !== null);
    if (inside.length) {
      const back = [...inside].reverse();
      traces.push({
        type: "scatter", mode: "lines", fill: "toself", hoverinfo: "skip", opacity: 0.22, meta: "interval",
        x: [...inside, ...back].map((i) => band.x[i]), fillcolor: colour(group), line: { width: 0, color: colour(group) },
        y: [...inside.map((i) => band.high[i]), ...back.map((i) => band.low[i])],
      });
    }
    const range = (i) => (band.low[i] === null ? band.interval : `${band.interval} [${band.low[i]}, ${band.high[i]}]`);
    traces.push({
      type: "scatter", mode: band.x.length <= MARKED ? "lines+markers" : "lines", x: band.x, y: band.y, line, meta: "iqm",
      customdata: band.x.map((_, i) => [band.count, plain(range(i)), plain(page.groups[group])]),
      hovertemplate: `IQM of %{customdata[0]} run(s)<br>${plain(this.data.x)} %{x}<br>${plain(this.data.y)} %{y:.6~g}<br>%{customdata[1]}<extra>%{customdata[2]}</extra>`,
    });
    return traces;
  }

  /** The ranges to begin with: all lines, and of intervals no more than half their height beyond, as those of two or three runs can be huge. */
  home(traces) {
    const ends = (chosen, name) => {
      const values = chosen.flatMap((trace) => trace[name]).filter((value) => value !== null);
      return [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
    };
    const lines = traces.filter((trace) => trace.meta !== "interval");
    const [left, right] = ends(lines, "x");
    const [low, high] = ends(lines, "y");
    const [lowest, highest] = ends(traces, "y");
    const [width, height] = [right - left, high - low];
    return {
      xaxis: width > 0 ? [left - 0.02 * width, right + 0.02 * width] : null,
      yaxis: height > 0 ? [Math.max(lowest, low - height / 2) - 0.05 * height, Math.min(highest, high + height / 2) + 0.05 * height] : null,
    };
  }

  reset() {
    const edits = Object.entries(this.ranges).map(([axis, range]) => (range ? [`${axis}.range`, range] : [`${axis}.autorange`, true]));
    Plotly.relayout(this.element, Object.fromEntries(edits));
  }

  /** Whether the reader has zoomed since the chart was drawn, which other data of the same metric leave as it is. */
  isZoomed() {
    const moved = (axis) => this.given[axis] && this.given[axis].some((end, i) => end !== this.element.layout[axis].range[i]);
    return this.key === this.data.key && (moved("xaxis") || moved("yaxis"));
  }

  layout(traces) {
    this.ranges = this.home(traces);
    if (!this.isZoomed()) this.given = this.ranges;
    this.key = this.data.key;
    const axis = (title) => ({
      title: { text: plain(title), font: { size: 13 } }, gridcolor: css("--line"), linecolor: css("--soft"), tickcolor: css("--soft"),
      zeroline: false, automargin: true, ticks: "outside", ticklen: 4, showline: true,
    });
    return {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 56, r: 12, t: 30, b: 48 },
      showlegend: false, hovermode: "closest", uirevision: this.data.key,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // else a finger could not scroll past the chart
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--soft"), font: { color: css("--ink"), size: 12 }, align: "left", namelength: -1 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--accent") },
      xaxis: { ...axis(this.data.x), range: this.given.xaxis?.slice(), dtick: this.data.dtick },
      yaxis: { ...axis(this.data.y), range: this.given.yaxis?.slice() },
    };
  }

  /** A box to tick for each group: what it is, how many runs, whether there is an interval. */
  label(groups, curves) {
    const labels = groups.map((group) => {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !this.off.has(group) });
      box.addEventListener("change", () => {
        if (box.checked) this.off.delete(group);
        else this.off.add(group);
        this.draw();
        this.legend.querySelectorAll("input")[groups.indexOf(group)].focus();
      });
      const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
      swatch.style.borderTopColor = colour(group);
      swatch.style.borderTopStyle = BORDERS[style(group)];
      const count = curves.filter((curve) => page.runs[curve.run].group === group).length;
      const band = this.data.bands.find((band) => band.group === group);
      const drawn = band?.count === count && band.y.length ? "" : `${count} run${count === 1 ? "" : "s"} drawn · `;
      const note = Object.assign(document.createElement("span"), { className: "note" });
      note.textContent = ` ${drawn}${band ? band.note : "no IQM: no completed run"}`;
      const text = document.createElement("span");
      text.append(page.groups[group], note);
      const label = document.createElement("label");
      label.append(box, swatch, text);
      return label;
    });
    this.legend.replaceChildren(this.legend.querySelector("legend"), ...labels);
  }
}

const parsed = new Map();

/** A metric with its axes filled in: the page has the points of a run as places in that run's list of steps. */
function metricData() {
  const metric = Number($("metric").value);
  const axis = $("axis").value;
  if (!parsed.has(metric)) parsed.set(metric, read(`metric-${metric}`));
  const { curves, bands } = parsed.get(metric);
  const at = (grid, places, length) => (grid ? (places ?? Array.from({ length }, (_, i) => i)).map((place) => grid[place]) : null);
  return {
    curves: curves
      .map((curve) => ({ run: curve.run, x: at(page.grids[curve.run][axis], curve.at, curve.y.length), y: curve.y }))
      .filter((curve) => curve.x !== null),
    bands: bands.filter((band) => band[axis]).map((band) => ({ ...band, x: band[axis] })),
    show: $("show").value, x: page.axes[axis], y: page.metrics[metric], key: `${metric} ${axis}`,
  };
}

const charts = [];
if (page.metrics.length) charts.push(new Chart("curve", metricData));
if (page.adaptation) {
  const { curves, bands, unit, label } = page.adaptation;
  const dtick = curves.every((curve) => curve.x.length <= MARKED) ? 1 : undefined;
  charts.push(new Chart("adaptation", () => ({ curves, bands, show: "both", x: unit, y: label, key: "adaptation", dtick })));
}

// What the reader does

for (const head of $("table").tHead.rows[0].cells) {
  head.querySelector("button").addEventListener("click", () => sort(head.cellIndex, head.getAttribute("aria-sort") === "ascending"));
}
$("filter").addEventListener("input", filter);
$("status").addEventListener("change", filter);
if (page.metrics.length) {
  $("metric").addEventListener("change", () => {
    showFinal(Number($("metric").value));
    if ($("filter").value) filter();
    else charts[0].draw();
  });
  for (const id of ["axis", "show"]) $(id).addEventListener("change", () => charts[0].draw());
  $("reset").addEventListener("click", () => charts[0].reset());
}
const differing = $("differing");
if (differing) {
  const only = () => $("config-table").classList.toggle("differing", differing.checked);
  differing.addEventListener("change", only);
  only();
}
dark.addEventListener("change", () => charts.forEach((chart) => chart.draw()));
charts.forEach((chart) => chart.draw());

// Draws the charts of the page from the JSON block in it. Text only ever enters as textContent.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const overTime = [];
  const all = [];
  const seconds = "seconds since the run began";

  // The phases behind the curves: every other one shaded, each named at its top where there is room.
  const drawSpans = (u) => {
    const { ctx, bbox } = u;
    const ratio = window.devicePixelRatio || 1;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    data.spans.forEach((span, index) => {
      const left = u.valToPos(span.begin_s, "x", true);
      const right = u.valToPos(span.end_s, "x", true);
      if (index % 2 === 0) {
        ctx.fillStyle = color("--band");
        ctx.fillRect(left, bbox.top, right - left, bbox.height);
      }
      const from = Math.max(left, bbox.left);
      if (ctx.measureText(span.label).width + 8 * ratio < Math.min(right, bbox.left + bbox.width) - from) {
        ctx.fillStyle = color("--faint");
        ctx.fillText(span.label, from + 4 * ratio, bbox.top + 3 * ratio);
      }
    });
    ctx.restore();
  };

  const nearest = (xs, at) => {
    let low = 0;
    let high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < at) low = middle; else high = middle;
    }
    return Math.abs(xs[low] - at) <= Math.abs(xs[high] - at) ? low : high;
  };

  const say = (chart, index) => {
    const out = document.getElementById(`readout-${chart.id}`);
    if (index === null || index === undefined) { out.textContent = ""; return; }
    const parts = chart.curves.filter((one) => one.y[index] !== null)
      .map((one) => `${one.label}: ${one.y[index]}${chart.unit ? ` ${chart.unit}` : ""}`);
    const where = chart.x_label === seconds ? `${chart.x[index].toFixed(2)} s` : `step ${chart.x[index]}`;
    out.textContent = `${where}: ${parts.join("; ") || "nothing read"}`;
  };

  const setRange = (charts, min, max) => {
    charts.forEach((u) => u.setScale("x", { min, max }));
  };

  const listen = (plot, u, chart, group, full) => {
    plot.addEventListener("keydown", (event) => {
      const { min, max } = u.scales.x;
      const xs = chart.x;
      const now = u.cursor.idx ?? nearest(xs, (min + max) / 2);
      const at = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: nearest(xs, min), End: nearest(xs, max) }[event.key];
      if (at !== undefined) {
        const index = Math.min(Math.max(at, 0), xs.length - 1);
        u.setCursor({ left: u.valToPos(xs[index], "x"), top: u.over.clientHeight / 2 });
        say(chart, index);
      } else if ("+-=".includes(event.key)) {
        const middle = xs[now];
        const half = Math.max((max - min) * (event.key === "-" ? 1 : 0.25), 1e-3);
        setRange(group, Math.max(middle - half, full[0]), Math.min(middle + half, full[1]));
      } else if (event.key === "Escape") {
        setRange(group, full[0], full[1]);
      } else {
        return;
      }
      event.preventDefault();
    });
  };

  const make = (chart, full) => {
    const plot = document.getElementById(`plot-${chart.id}`);
    const timed = chart.x_label === seconds;
    const sparse = chart.x.length < 80;
    const axis = { stroke: () => color("--faint"), grid: { stroke: () => color("--line"), width: 1 },
      ticks: { stroke: () => color("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const least = chart.id === "loss" ? null : 0;
    const u = new uPlot({
      width: plot.clientWidth,
      height: 190,
      scales: {
        x: { time: false, range: (_u, min, max) => (min === max ? [min - 1, max + 1] : [min, max]) },
        y: { range: (_u, min, max) => {
          if (chart.unit === "%") return [0, 100];
          const low = least === null ? min : Math.min(least, min ?? 0);
          const high = (max ?? 1) > low ? (max ?? 1) : low + 1;
          return [low, high + (high - low) * 0.15];
        } },
      },
      axes: [{ ...axis }, { ...axis, size: 64 }],
      series: [{}, ...chart.curves.map((curve, number) => ({
        label: curve.label,
        stroke: () => color(`--curve-${number % 8}`),
        dash: number >= 8 || (chart.id === "loss" && number > 0) ? [6, 4] : undefined,
        width: 2,
        spanGaps: chart.stepped || chart.id === "loss",
        paths: chart.stepped ? uPlot.paths.stepped({ align: 1 }) : uPlot.paths.linear(),
        points: { show: sparse },
      }))],
      legend: { live: false },
      cursor: { sync: timed ? { key: "time", setSeries: false } : undefined, drag: { x: true, y: false } },
      hooks: {
        drawClear: timed ? [drawSpans] : [],
        setCursor: [(self) => say(chart, self.cursor.idx)],
        setScale: [(self, key) => {
          if (key !== "x" || !timed) return;
          const { min, max } = self.scales.x;
          overTime.forEach((other) => {
            if (other !== self && (other.scales.x.min !== min || other.scales.x.max !== max)) other.setScale("x", { min, max });
          });
        }],
      },
    }, [chart.x, ...chart.curves.map((curve) => curve.y)], plot);
    if (timed) overTime.push(u);
    all.push({ u, plot });
    listen(plot, u, chart, timed ? overTime : [u], full);
    u.setScale("x", { min: full[0], max: full[1] });
    u.over.addEventListener("dblclick", () => setRange(timed ? overTime : [u], full[0], full[1]));
  };

  const timed = data.charts.filter((chart) => chart.x_label === seconds);
  const ends = [...timed.flatMap((chart) => [chart.x[0], chart.x[chart.x.length - 1]]),
    ...data.spans.flatMap((span) => [span.begin_s, span.end_s])];
  const whole = [Math.min(...ends, 0), Math.max(...ends, 1e-3)];
  data.charts.forEach((chart) => make(chart,
    chart.x_label === seconds ? whole : [chart.x[0], chart.x[chart.x.length - 1]]));

  const buttons = document.getElementById("buttons");
  const choices = [["whole run", whole], ...data.spans.filter((span) => span.end_s - span.begin_s > 0.05 * (whole[1] - whole[0]))
    .map((span) => [span.label, [span.begin_s, span.end_s]])];
  if (overTime.length && choices.length > 1) {
    choices.forEach(([label, [min, max]]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.addEventListener("click", () => setRange(overTime, min, max));
      buttons.append(button);
    });
    buttons.hidden = false;
  }

  const redraw = () => all.forEach(({ u }) => u.redraw(false, true));
  const fit = () => all.forEach(({ u, plot }) => u.setSize({ width: plot.clientWidth, height: 190 }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", () => { fit(); redraw(); });
  window.addEventListener("resize", fit);
})();

"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = [];

  // Tooltips are HTML: all text in them is escaped.
  const escaped = (text) =>
    String(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

  // Numbers as in the tables (report/figures.py), with so many significant digits; other values as text.
  const shortened = (digits) => (value) => {
    if (typeof value !== "number") return value === null || value === undefined ? "–" : String(value);
    const size = Math.abs(value);
    if (value !== 0 && (size >= 1e15 || size < 1e-4)) return String(Number(value.toPrecision(digits)));
    const whole = Number.isInteger(value) || size >= 10 ** digits;
    return value.toLocaleString("en-US", whole ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits });
  };
  const figure = shortened(5);
  const tick = shortened(9);  // neighbours on an axis must differ

  const named = (name, value) => `${escaped(name)} ${escaped(figure(value))}`;

  // The tooltip of a chart with many curves lists only the best of them.
  const SHOWN = 6;
  const best = (chart) => (points) => {
    const known = points.filter((point) => typeof point.value === "number");
    known.sort((a, b) => (chart.lower ? a.value - b.value : b.value - a.value));
    const rows = known.slice(0, SHOWN).map((point) => point.marker + named(point.seriesName, point.value));
    const more = known.length > SHOWN ? [`and ${known.length - SHOWN} more`] : [];
    return [escaped(points[0].axisValueLabel), ...rows, ...more].join("<br>");
  };

  const tooltip = (c) => ({
    confine: true, backgroundColor: c.box, borderColor: c.line, textStyle: { color: c.text, fontSize: 13 },
    extraCssText: "max-width: min(90%, 480px); white-space: normal; overflow-wrap: anywhere;",
  });

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return { text: read("--text"), soft: read("--soft"), line: read("--line"), box: read("--box") };
  };

  const palette = () =>
    dark.matches
      ? ["#6ea8fe", "#f5a45d", "#6fcf97", "#e07ab8", "#b39ddb", "#5cc8d7", "#d9c25f", "#f28b82"]
      : ["#1f6feb", "#d9730d", "#2a9d5c", "#b83280", "#6b4fbb", "#0e8fa3", "#9a7d0a", "#c5352b"];

  const series = (chart, c) => {
    if (chart.kind === "slice")
      return [{ type: "scatter", name: chart.y, data: chart.points, symbolSize: 9, itemStyle: { opacity: 0.75 } }];
    if (chart.kind === "scatter") {
      const flat = chart.points.flat();
      const ends = [Math.min(...flat), Math.max(...flat)];
      return [
        { type: "scatter", name: "samples", data: chart.points, symbolSize: 7, itemStyle: { opacity: 0.65 } },
        { type: "line", name: "equal", data: ends.map((end) => [end, end]), symbol: "none", silent: true,
          lineStyle: { color: c.soft, type: "dashed", width: 1 }, tooltip: { show: false } },
      ];
    }
    return chart.series.map(({ name, values }, index) => ({
      type: chart.kind, name, data: values, symbol: "circle",
      showSymbol: values.filter((value) => value !== null).length < 2,
      symbolSize: 7, lineStyle: { width: 2 }, connectNulls: Boolean(chart.joined), barMaxWidth: 40, emphasis: { disabled: true },
      markLine: chart.mark && index === 0 ? {
        symbol: "none", silent: true, lineStyle: { color: c.soft, type: "dashed" },
        label: { formatter: "best", color: c.soft, fontSize: 11, distance: 2 },
        data: [{ xAxis: String(chart.mark) }],
      } : undefined,
    }));
  };

  const parallel = (chart) => {
    const c = colours();
    const last = chart.axes.length - 1;
    const values = chart.lines.map((line) => line.value[last]);
    const [good, bad] = palette();
    return {
      animation: false, textStyle: { fontFamily: "system-ui, sans-serif" },
      parallel: { left: 40, right: 70, top: 34, bottom: 24 },
      parallelAxis: chart.axes.map((axis, dim) => ({
        dim, name: axis.name, type: axis.values ? "category" : axis.log ? "log" : "value", data: axis.values, scale: true,
        nameTextStyle: { color: c.text }, axisLine: { lineStyle: { color: c.soft } },
        axisLabel: { color: c.soft, formatter: axis.values ? undefined : tick },
      })),
      visualMap: { show: false, dimension: last, min: Math.min(...values), max: Math.max(...values),
        inRange: { color: chart.lower ? [good, bad] : [bad, good] } },
      tooltip: tooltip(c),
      series: [{ type: "parallel", lineStyle: { width: 2, opacity: 0.6 }, emphasis: { lineStyle: { width: 4 } },
        data: chart.lines,
        tooltip: { formatter: (line) => escaped(line.name) } }],
    };
  };

  const option = (chart) => {
    if (chart.kind === "parallel") return parallel(chart);
    const c = colours();
    const slice = chart.kind === "slice";
    const scatter = chart.kind === "scatter" || slice;
    const axis = { axisLine: { lineStyle: { color: c.line } }, axisTick: { show: false },
      axisLabel: { color: c.soft, hideOverlap: true }, splitLine: { lineStyle: { color: c.line } } };
    const narrow = { ...axis, axisLabel: { ...axis.axisLabel, formatter: tick } };
    const listed = scatter || chart.plain ? [] : chart.series.map(({ name }) => name);
    return {
      animation: false, color: palette(), textStyle: { fontFamily: "system-ui, sans-serif" },
      aria: { enabled: false },
      legend: { show: listed.length > 1, data: listed, type: "scroll", top: 0, left: 0, icon: "roundRect",
        itemWidth: 14, itemHeight: 4, textStyle: { color: c.text }, pageTextStyle: { color: c.soft } },
      grid: { left: 4, right: 14, top: listed.length > 1 ? 40 : 26, bottom: 24, containLabel: true },
      tooltip: { ...tooltip(c), trigger: scatter ? "item" : "axis", axisPointer: { lineStyle: { color: c.soft } },
        ...(scatter
          ? { formatter: (dot) => `${named(slice ? chart.axis : "true", dot.value[0])}<br>${named(slice ? chart.y : "predicted", dot.value[1])}` }
          : chart.series.length > SHOWN ? { formatter: best(chart) } : { valueFormatter: figure }) },
      xAxis: { ...(scatter ? narrow : axis), type: slice ? chart.type : scatter ? "value" : "category", scale: true,
        data: chart.x, ...(chart.words ? { axisLabel: { color: c.soft, interval: 0, rotate: 20 } } : {}),
        boundaryGap: scatter ? ["2%", "2%"] : chart.kind === "bar", name: chart.axis, nameLocation: "middle",
        nameGap: 26, nameTextStyle: { color: c.soft }, splitLine: { show: false } },
      yAxis: { ...narrow, type: "value", scale: chart.kind !== "bar",
        name: slice ? chart.y : scatter ? "predicted" : "", nameTextStyle: { color: c.soft, align: "left" } },
      series: series(chart, c),
    };
  };

  document.querySelectorAll("[data-chart]").forEach((place) => {
    const chart = charts[Number(place.dataset.chart)];
    const drawing = echarts.init(place, null, { renderer: "svg" });
    drawing.setOption(option(chart));
    drawn.push([drawing, chart]);
    new ResizeObserver(() => drawing.resize()).observe(place);
  });
  dark.addEventListener("change", () => drawn.forEach(([drawing, chart]) => drawing.setOption(option(chart), true)));
})();

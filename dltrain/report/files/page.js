"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = [];

  const figure = (value) =>
    typeof value === "string" ? value : value === null || value === undefined ? "–" : Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));

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
    return chart.series.map((one, index) => ({
      type: chart.kind, name: one.name, data: one.values, symbol: "circle",
      showSymbol: one.values.filter((value) => value !== null).length < 2,
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
    const best = palette()[0], worst = palette()[1];
    return {
      animation: false, textStyle: { fontFamily: "system-ui, sans-serif" },
      parallel: { left: 40, right: 70, top: 34, bottom: 24 },
      parallelAxis: chart.axes.map((axis, dim) => ({
        dim, name: axis.name, type: axis.values ? "category" : axis.log ? "log" : "value", data: axis.values, scale: true,
        nameTextStyle: { color: c.text }, axisLine: { lineStyle: { color: c.soft } },
        axisLabel: { color: c.soft, formatter: axis.values ? undefined : figure },
      })),
      visualMap: { show: false, dimension: last, min: Math.min(...values), max: Math.max(...values),
        inRange: { color: chart.lower ? [best, worst] : [worst, best] } },
      tooltip: { confine: true, backgroundColor: c.box, borderColor: c.line, textStyle: { color: c.text, fontSize: 13 } },
      series: [{ type: "parallel", lineStyle: { width: 2, opacity: 0.6 }, emphasis: { lineStyle: { width: 4 } },
        data: chart.lines,
        tooltip: { formatter: (one) => one.name } }],
    };
  };

  const option = (chart) => {
    if (chart.kind === "parallel") return parallel(chart);
    const c = colours();
    const slice = chart.kind === "slice";
    const scatter = chart.kind === "scatter" || slice;
    const axis = { axisLine: { lineStyle: { color: c.line } }, axisTick: { show: false },
      axisLabel: { color: c.soft, hideOverlap: true }, splitLine: { lineStyle: { color: c.line } } };
    const narrow = { ...axis, axisLabel: { ...axis.axisLabel, formatter: figure } };
    const named = scatter || chart.plain ? [] : chart.series.map((one) => one.name);
    return {
      animation: false, color: palette(), textStyle: { fontFamily: "system-ui, sans-serif" },
      aria: { enabled: false },
      legend: { show: named.length > 1, data: named, type: "scroll", top: 0, left: 0, icon: "roundRect",
        itemWidth: 14, itemHeight: 4, textStyle: { color: c.text }, pageTextStyle: { color: c.soft } },
      grid: { left: 4, right: 14, top: named.length > 1 ? 40 : 26, bottom: 24, containLabel: true },
      tooltip: { trigger: scatter ? "item" : "axis", confine: true, backgroundColor: c.box, borderColor: c.line,
        textStyle: { color: c.text, fontSize: 13 }, axisPointer: { lineStyle: { color: c.soft } },
        ...(scatter
          ? { formatter: (dot) => slice ? `${chart.axis} ${figure(dot.value[0])}<br>${chart.y} ${figure(dot.value[1])}` : `true ${figure(dot.value[0])}<br>predicted ${figure(dot.value[1])}` }
          : { valueFormatter: figure }) },
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

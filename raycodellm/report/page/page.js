// The report's page: sorts, filters and folds tables, chooses curves, and draws the plots on light or dark paper.
(() => {
  "use strict";
  const FOLD = 20;
  const NOTHING = "–";
  const root = document.documentElement;
  const all = (selector, under = document) => [...under.querySelectorAll(selector)];

  function make(tag, text = "", attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  // What the reader has chosen, kept while the tab is open: the page of a running sweep loads itself again.
  const kept = {
    name: (key) => `raycodellm ${location.pathname} ${key}`,
    get(key, other) {
      try {
        return JSON.parse(sessionStorage.getItem(this.name(key))) ?? other;
      } catch {
        return other;
      }
    },
    set(key, value) {
      try {
        sessionStorage.setItem(this.name(key), JSON.stringify(value));
      } catch {} // the browser keeps nothing for this page
    },
  };

  // --------------------------------------------------------------------------------------------- tables

  function sortKey(row, column) {
    const cell = row.cells[column];
    if (cell.dataset.n !== undefined) return Number(cell.dataset.n);
    const text = cell.textContent.trim();
    if (text === "" || text === NOTHING) return null;
    const plain = text.replace(/,/g, "").replace("−", "-");
    return /^[+-]?\d+(\.\d+)?$/.test(plain) ? Number(plain) : text;
  }

  function compare(left, right) {
    if (typeof left === "number" && typeof right === "number") return left - right;
    return String(left).localeCompare(String(right), undefined, { numeric: true });
  }

  function tools(box, place) {
    const body = box.querySelector("tbody");
    const heads = all("thead th", box);
    const rows = [...body.rows];
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const state = kept.get(`table ${place}`, { column: null, down: false, words: "", open: false });
    const count = make("span");
    const filter = make("input", "", { type: "search", placeholder: "filter rows", "aria-label": "Filter rows" });
    const more = make("button", "", { type: "button", class: "more" });

    function show() {
      let order = rows;
      if (state.column !== null && state.column < heads.length) {
        const keys = new Map(rows.map((row) => [row, sortKey(row, state.column)]));
        const known = rows.filter((row) => keys.get(row) !== null);
        known.sort((a, b) => (state.down ? -1 : 1) * compare(keys.get(a), keys.get(b)));
        order = [...known, ...rows.filter((row) => keys.get(row) === null)];
      }
      const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
      const found = order.filter((row) => words.every((word) => texts.get(row).includes(word)));
      const shown = new Set(state.open ? found : found.slice(0, FOLD));
      for (const row of order) row.hidden = !shown.has(row);
      body.append(...order);
      count.textContent = words.length ? `${found.length} of ${rows.length} rows` : `${rows.length} rows`;
      more.hidden = found.length <= FOLD;
      more.textContent = state.open ? `show the first ${FOLD} rows` : `show ${found.length - FOLD} more rows`;
      heads.forEach((head, column) => {
        if (column === state.column) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      kept.set(`table ${place}`, state);
    }

    heads.forEach((head, column) => {
      const button = make("button", "", { type: "button", title: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        state.down = state.column === column && !state.down;
        state.column = column;
        show();
      });
    });
    if (rows.length > 5) {
      const bar = make("div", "", { class: "tools" });
      bar.append(filter, count);
      box.prepend(bar);
    }
    box.append(more);
    filter.value = state.words;
    filter.addEventListener("input", () => {
      state.words = filter.value;
      show();
    });
    more.addEventListener("click", () => {
      state.open = !state.open;
      show();
    });
    show();
  }

  function foldTree(list) {
    const items = [...list.children];
    if (items.length <= FOLD) return;
    const more = make("button", `show ${items.length - FOLD} more`, { type: "button", class: "more" });
    for (const item of items.slice(FOLD)) item.hidden = true;
    more.addEventListener("click", () => {
      for (const item of items) item.hidden = false;
      more.remove();
    });
    list.after(more);
  }

  // --------------------------------------------------------------------------------------------- plots

  async function unpacked(id) {
    const letters = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  let data = null;
  const asMarkup = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

  // A copy in which each name of a colour is the colour on this paper.
  function coloured(value, style) {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.some((one) => typeof one === "object") ? value.map((one) => coloured(one, style)) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one, style)]));
  }

  function merged(base, over) {
    const out = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const nested = value !== null && typeof value === "object" && !Array.isArray(value);
      out[key] = nested ? merged(base[key] ?? {}, value) : value;
    }
    return out;
  }

  function draw(name, traces, layout) {
    const style = getComputedStyle(root);
    const axis = { title: { font: { size: innerWidth < 760 ? 11 : 13 } }, gridcolor: "--grid", linecolor: "--axis", zeroline: false, ticks: "outside", tickcolor: "--axis", automargin: true };
    const base = {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "--ink" },
      paper_bgcolor: "--paper", plot_bgcolor: "--paper",
      margin: { l: 8, r: 12, t: 12, b: 8 }, hovermode: "closest", xaxis: axis, yaxis: axis,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemsizing: "constant", font: { size: 12 } },
      hoverlabel: { align: "left", bgcolor: "--pale", bordercolor: "--axis", font: { color: "--ink" } },
    };
    for (const key of Object.keys(layout)) if (/^[xy]axis[0-9]+$/.test(key)) base[key] = axis;
    const named = traces.map(({ points, ...trace }) =>
      points ? { ...trace, text: points[1].map((one) => data.hover[points[0]][one] ?? "") } : trace);
    const options = { responsive: true, displaylogo: false, displayModeBar: false };
    return Plotly.react(`plot-${name}`, coloured(named, style), coloured(merged(base, layout), style), options);
  }

  // The curves of the chosen arms along one stage. A stage that several trials share is drawn once.
  function curveTraces(plot, curve) {
    const users = new Map();
    for (const arm of data.curves.chosen) {
      for (const [, ...keys] of data.curves.byArm.get(arm).trials) {
        for (const key of keys) {
          if (data.curves.stages[key].stage === plot.stage) users.set(key, (users.get(key) ?? new Set()).add(arm));
        }
      }
    }
    const named = new Set();
    const traces = [];
    for (const [key, arms] of users) {
      const stage = data.curves.stages[key];
      const name = `arm ${[...arms].join(", ")}`;
      const colour = `--group-${data.curves.chosen.indexOf([...arms][0])}`;
      for (const part of plot.quantity === "ratio" ? ["real", "planned"] : [curve]) {
        const values = stage[part];
        if (!values) continue;
        const [x, y] = Array.isArray(values[0]) ? values : [stage.tokens, values];
        const line = { color: colour, width: part === "planned" ? 1.4 : 2, dash: part === "planned" ? "dash" : "solid" };
        const mode = x.length < 12 ? "lines+markers" : "lines";
        const legend = { name, legendgroup: name, showlegend: part !== "planned" && !named.has(name) };
        traces.push({ type: "scatter", mode, x, y, line, ...legend, hovertemplate: `${name} ${part === "planned" ? "planned " : ""}%{y:.4~g}<extra></extra>` });
        named.add(name);
      }
    }
    return traces;
  }

  function drawCurves(name) {
    const plot = data.plots[name];
    const select = document.querySelector(`[data-curve="${name}"]`);
    const layout = { xaxis: { title: { text: `tokens of stage ${asMarkup(plot.stage)}` }, rangemode: "tozero" }, yaxis: { title: { text: plot.y } }, showlegend: true };
    if (plot.quantity === "ratio") layout.yaxis.range = [-0.03, 1.03];
    return draw(name, curveTraces(plot, select ? select.value : plot.options[0][0]), layout);
  }

  function chooser(box) {
    const { chosen, arms, byArm, most } = data.curves;
    const choose = (next) => {
      data.curves.chosen = next;
      kept.set("arms", next);
      all("[data-chooser]").forEach(chooser);
      Object.keys(data.plots).forEach(drawCurves);
    };
    box.replaceChildren();
    chosen.forEach((arm, place) => {
      const chip = make("button", "", { type: "button", class: "chip", title: "take this arm's curves away" });
      const swatch = make("i");
      swatch.style.background = `var(--group-${place})`;
      chip.append(swatch, make("span", `${byArm.get(arm).label} ×`));
      chip.addEventListener("click", () => choose(chosen.filter((one) => one !== arm)));
      box.append(chip);
    });
    if (chosen.length < Math.min(most, arms.length)) {
      const select = make("select", "", { "aria-label": "Add an arm's curves" });
      select.append(make("option", "add an arm …", { value: "" }));
      for (const one of arms) if (!chosen.includes(one.arm)) select.append(make("option", one.label, { value: one.arm }));
      select.addEventListener("change", () => choose([...chosen, Number(select.value)]));
      box.append(select);
    }
  }

  const drawings = () => [
    ...Object.entries(data.figures).map(([name, one]) => () => draw(name, one.data, one.layout)),
    ...Object.keys(data.plots).map((name) => () => drawCurves(name)),
  ];

  function drawAll() {
    for (const drawing of drawings()) drawing();
  }

  async function plots() {
    if (!document.getElementById("plotly").textContent) return;
    if (typeof DecompressionStream === "undefined") {
      for (const plot of all(".plot")) plot.textContent = "This browser cannot unpack the plots: use one of 2023 or later.";
      return;
    }
    const [library, content] = await Promise.all([unpacked("plotly"), unpacked("data")]);
    document.head.append(make("script", library));
    data = JSON.parse(content);
    if (data.curves.arms) {
      data.curves.byArm = new Map(data.curves.arms.map((one) => [one.arm, one]));
      data.curves.chosen = kept.get("arms", data.curves.chosen).filter((arm) => data.curves.byArm.has(arm));
      all("[data-chooser]").forEach(chooser);
      for (const select of all("[data-curve]")) {
        const name = select.dataset.curve;
        const before = kept.get(`curve ${name}`, select.value);
        if ([...select.options].some((option) => option.value === before)) select.value = before;
        select.addEventListener("change", () => {
          kept.set(`curve ${name}`, select.value);
          drawCurves(name);
        });
      }
    }
    for (const drawing of drawings()) {
      drawing();
      await new Promise((resume) => setTimeout(resume)); // the first plots are seen before the last are drawn
    }
  }

  // --------------------------------------------------------------------------------------------- light and dark

  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  function paper(theme) {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) {
      button.hidden = false;
      button.textContent = theme === "dark" ? "light" : "dark";
      button.setAttribute("aria-label", `Show on ${button.textContent} paper`);
    }
    if (data) drawAll();
  }

  function chosenTheme() {
    try {
      return localStorage.getItem("raycodellm theme");
    } catch {
      return null;
    }
  }

  function toggle() {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("raycodellm theme", theme);
    } catch {} // the choice holds until the page is left
    paper(theme);
  }

  prefersDark.addEventListener("change", () => {
    if (!chosenTheme()) paper(prefersDark.matches ? "dark" : "light");
  });

  let printing = null;
  addEventListener("beforeprint", () => {
    printing = { theme: root.dataset.theme, closed: all("details:not([open])") };
    for (const one of printing.closed) one.open = true;
    root.classList.add("printing"); // the plots get the width of a sheet
    paper("light");
  });
  addEventListener("afterprint", () => {
    for (const one of printing.closed) one.open = false;
    root.classList.remove("printing");
    paper(printing.theme);
    printing = null;
  });

  // --------------------------------------------------------------------------------------------- start

  function start() {
    paper(root.dataset.theme);
    document.getElementById("theme").addEventListener("click", toggle);
    all("[data-table]").forEach(tools);
    all("ul.tree, ul.tree ul").forEach(foldTree);
    all("details").forEach((one, place) => {
      one.open = kept.get(`open ${place}`, one.open);
      one.querySelector("summary").addEventListener("click", () => kept.set(`open ${place}`, !one.open));
    });
    const reloads = document.querySelector('meta[http-equiv="refresh"]') !== null;
    if (reloads) addEventListener("pagehide", () => kept.set("scroll", scrollY));
    plots()
      .catch((error) => {
        for (const plot of all(".plot")) if (!plot.firstChild) plot.textContent = `This plot could not be drawn: ${error}`;
        throw error;
      })
      .finally(() => {
        if (reloads) scrollTo(0, kept.get("scroll", 0));
        root.dataset.ready = "yes";
      });
  }

  paper(chosenTheme() ?? (prefersDark.matches ? "dark" : "light")); // before anything is shown
  addEventListener("DOMContentLoaded", start);
})();

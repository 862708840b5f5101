"use strict";
(() => {
  const root = document.documentElement;
  const by = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  root.classList.add("js");
  for (const control of all("#scheme, .zoom, .filter")) control.hidden = false;

  // light and dark: what the system says until the button is used
  const system = matchMedia("(prefers-color-scheme: dark)");
  let dark = system.matches;
  const labelScheme = () => {
    by("scheme").textContent = dark ? "Light" : "Dark";
    by("scheme").setAttribute("aria-label", `Switch to the ${dark ? "light" : "dark"} scheme`);
  };
  by("scheme").addEventListener("click", () => {
    dark = !dark;
    root.style.colorScheme = dark ? "dark" : "light";
    labelScheme();
  });
  system.addEventListener("change", () => {
    if (!root.style.colorScheme) dark = system.matches;
    labelScheme();
  });
  labelScheme();

  // one tab stop for each group; arrow keys move within it
  for (const group of all("[data-roving]")) {
    const items = all("a", group);
    items.forEach((item, i) => { item.tabIndex = i ? -1 : 0; });
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = items[items.indexOf(document.activeElement) + step];
      if (!step || !next) return;
      event.preventDefault();
      for (const item of items) item.tabIndex = item === next ? 0 : -1;
      next.focus();
    });
  }

  // what a bar or a box stands for, on hover and focus
  const tip = by("tip");
  const showTip = (target) => {
    tip.textContent = target.getAttribute("aria-label");
    tip.hidden = false;
    const at = target.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - own.width / 2), innerWidth - own.width - 8);
    const below = at.bottom + 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${below + own.height > innerHeight ? at.top - own.height - 8 : below}px`;
  };
  for (const item of all(".lane a, a.node")) {
    item.addEventListener("pointerenter", () => showTip(item));
    item.addEventListener("focus", () => showTip(item));
    for (const end of ["pointerleave", "blur"]) item.addEventListener(end, () => { tip.hidden = true; });
  }

  // the selected layer: marked everywhere, its candidates beside the page
  const panel = by("panel"), articles = all("[data-article]");
  let selected = -1, origin = null;
  const select = (index) => {
    selected = index;
    for (const item of all(".on")) item.classList.remove("on");
    for (const item of all(`[data-layer="${index}"], .nets [data-from="${index}"]`)) item.classList.add("on");
    const article = articles[index].cloneNode(true);
    article.removeAttribute("id");
    by("panel-body").replaceChildren(article);
    panel.hidden = false;
    panel.scrollTop = 0;
    tip.hidden = true;
    by("before").disabled = index === 0;
    by("after").disabled = index === articles.length - 1;
  };
  const close = () => {
    panel.hidden = true;
    for (const item of all(".on")) item.classList.remove("on");
    if (origin) origin.focus();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-layer]");
    if (!link) return;
    event.preventDefault();
    origin = link;
    select(Number(link.dataset.layer));
    panel.focus({ preventScroll: true });
  });
  by("before").addEventListener("click", () => select(selected - 1));
  by("after").addEventListener("click", () => select(selected + 1));
  by("close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    tip.hidden = true;
    if (!panel.hidden) close();
  });
  const fromAddress = /^#L(\d+)$/.exec(location.hash);
  if (fromAddress && Number(fromAddress[1]) < articles.length) select(Number(fromAddress[1]));

  // zoom: the timeline in width, the network in both directions
  const graph = by("graph"), lanes = by("lanes");
  const natural = { width: Number(graph.getAttribute("width")), height: Number(graph.getAttribute("height")) };
  const apply = {
    lanes: (scale) => { lanes.style.width = `${scale * 100}%`; return `${scale}\u00d7`; },
    graph: (scale) => {
      graph.setAttribute("width", natural.width * scale);
      graph.setAttribute("height", natural.height * scale);
      return `${Math.round(scale * 100)}%`;
    },
  };
  for (const zoom of all(".zoom")) {
    const name = zoom.dataset.zoom, box = (name === "lanes" ? lanes : graph).parentElement;
    const [least, most] = name === "lanes" ? [1, 64] : [0.05, 2];
    let scale = 1;
    zoom.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const centre = [(box.scrollLeft + box.clientWidth / 2) / scale, (box.scrollTop + box.clientHeight / 2) / scale];
      const fitting = Math.min(1, (box.clientWidth - 4) / natural.width, (box.clientHeight - 4) / natural.height);
      scale = button.dataset.by === "fit" ? fitting : scale * Number(button.dataset.by);
      scale = Math.min(most, Math.max(least, scale));
      zoom.querySelector("output").textContent = apply[name](scale);
      box.scrollLeft = centre[0] * scale - box.clientWidth / 2;
      box.scrollTop = centre[1] * scale - box.clientHeight / 2;
    });
  }
  const graphBox = graph.parentElement;
  const first = graph.querySelector(".node");
  if (first) graphBox.scrollLeft += first.getBoundingClientRect().left - graphBox.getBoundingClientRect().left - graphBox.clientWidth / 2 + 60;

  // the table: sorting by any column, filtering by any text
  const body = by("table").tBodies[0], headings = all("thead th", by("table"));
  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const rising = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const numeric = heading.dataset.sort === "number";
      const compare = (a, b) => {
        const [left, right] = [value(a, column), value(b, column)];
        if (!left || !right) return (left ? 0 : 1) - (right ? 0 : 1); // empty cells last, either way
        const order = numeric ? Number(left) - Number(right) : left.localeCompare(right, undefined, { numeric: true });
        return rising ? order : -order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
  const filter = () => {
    const words = by("filter").value.toLowerCase().split(/[\s/]+/).filter(Boolean);
    let count = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    by("shown").textContent = words.length ? `${count} of ${body.rows.length}` : "";
  };
  by("filter").addEventListener("input", filter);
})();

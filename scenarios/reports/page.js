"use strict";
(() => {
  const narrow = window.matchMedia("(max-width: 800px)");
  const config = {
    displaylogo: false,
    responsive: true,
    toImageButtonOptions: { format: "svg" },
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  };
  for (const place of document.querySelectorAll("div.plot")) {
    const drawn = JSON.parse(document.getElementById(place.id + "-data").textContent);
    if (narrow.matches) {
      drawn.layout.margin = { l: 44, r: 8, t: 40, b: 42 };
      drawn.layout.font.size = 11;
      for (const trace of drawn.data) {
        // A field of a map is then narrower than its figure.
        if (trace.type === "heatmap" && trace.texttemplate && trace.x.length > 4) delete trace.texttemplate;
      }
    }
    Plotly.newPlot(place, drawn.data, drawn.layout, { ...config, displayModeBar: narrow.matches ? false : "hover" });
  }
  for (const list of document.querySelectorAll("select[data-plot]")) {
    const choices = JSON.parse(document.getElementById(list.dataset.plot + "-choices").textContent);
    list.addEventListener("change", () => {
      const { visible, layout } = choices[Number(list.value)];
      Plotly.update(list.dataset.plot, { visible }, layout);
    });
  }
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  for (const button of document.querySelectorAll("table.sortable thead button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const body = head.closest("table").tBodies[0];
      const down = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down < 0 ? "descending" : "ascending");
      const rows = [...body.rows];
      rows.sort((one, two) => {
        const [a, b] = [value(one, head.cellIndex), value(two, head.cellIndex)];
        if (typeof a === "number" && typeof b === "number") {
          // Cells without a figure go last, whichever way.
          if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
          return down * (a - b);
        }
        return down * String(a).localeCompare(String(b), undefined, { numeric: true });
      });
      body.append(...rows);
    });
  }
  document.documentElement.dataset.ready = "yes";
})();

"use strict";

// Charts: plotly.js comes compressed within the page, colours by the names of CSS variables.
const SETTINGS = { responsive: true, displayModeBar: false };

async function unpack(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function painted(value) {
  if (Array.isArray(value)) return value.map(painted);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, painted(inner)]));
  }
  const name = typeof value === "string" && value.match(/^var\((--[a-z]+)\)$/);
  return name ? getComputedStyle(document.documentElement).getPropertyValue(name[1]).trim() : value;
}

function draw(figures) {
  return Promise.all(Object.entries(figures).map(([id, figure]) => {
    const { data, layout } = painted(figure);
    return Plotly.react(id, data, layout, SETTINGS);
  }));
}

async function showCharts() {
  const source = document.getElementById("figures");
  if (!source) return;
  const figures = JSON.parse(source.textContent);
  try {
    await unpack("plotly");
    await draw(figures);
  } catch (error) {
    for (const id of Object.keys(figures)) {
      document.getElementById(id).innerHTML =
        '<p class="problem">This browser does not draw the chart; the table of layers holds its numbers.</p>';
    }
    return;
  }
  for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(query).addEventListener("change", () => draw(figures));
  }
}

// The table of layers: a heading sorts by its column, the field above keeps the rows that hold its words.
function sortable(table) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    const given = cell.dataset.value;
    if (given === undefined) return cell.textContent.trim();
    return given === "" ? -Infinity : Number(given);
  };
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const numbers = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      const descending = before === "none" ? numbers : before === "ascending";
      for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
      const rows = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column)));
      body.append(...(descending ? rows.reverse() : rows));
    });
  });
}

function searchable(table, field, found) {
  const rows = [...table.tBodies[0].rows];
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    found.textContent = `${shown} of ${rows.length}`;
  });
}

const layers = document.getElementById("layers");
if (layers) {
  sortable(layers);
  searchable(layers, document.getElementById("search"), document.getElementById("found"));
}
showCharts().then(() => document.documentElement.setAttribute("data-ready", ""));

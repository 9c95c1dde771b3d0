const body = document.querySelector("#all tbody");
document.querySelector("#filter")?.addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
document.querySelectorAll("#all th.sort").forEach((head) => head.addEventListener("click", () => {
  const column = head.cellIndex, sign = head.dataset.up ? -1 : 1;
  head.dataset.up = sign === 1 ? "1" : "";
  const key = (row) => { const t = row.cells[column].textContent.trim(), n = parseFloat(t);
    return Number.isNaN(n) ? t : n; };
  [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
    return sign * (typeof x === typeof y ? (x > y) - (x < y) : typeof x === "number" ? -1 : 1);
  }).forEach((row) => body.append(row));
}));

"use strict";
(() => {
  const MOST_ROWS = 20; // of samples, until asked for more
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  for (const tools of all(".tools")) tools.hidden = false;

  // Numbers by value, "-" and empty cells last, all else by letters.
  const value = (cell) => {
    // A score's interval stands below it.
    const small = cell.querySelector("small");
    const text = (small ? cell.firstChild : cell).textContent.trim();
    const plain = text.replace(/[,%★]/g, "").replace("−", "-").trim();
    return { text, number: /^[-+]?[\d.]/.test(plain) ? parseFloat(plain) : NaN };
  };
  const order = (one, other, direction) => {
    const gaps = ["", "-"].includes(one.text) - ["", "-"].includes(other.text);
    if (gaps) return gaps;
    const numbers = !Number.isNaN(one.number) && !Number.isNaN(other.number);
    return direction * (numbers ? one.number - other.number : one.text.localeCompare(other.text));
  };
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((head, column) => {
      head.tabIndex = 0;
      const sort = () => {
        const ascending = head.getAttribute("aria-sort") === "descending" || !head.ariaSort;
        const direction = ascending ? 1 : -1;
        for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        for (const body of table.tBodies) {
          const rows = all("tr:not(.group)", body);
          rows.sort((a, b) => order(value(a.cells[column]), value(b.cells[column]), direction));
          body.append(...rows);
        }
        table.dispatchEvent(new Event("sorted"));
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
    });
  }

  for (const input of all("input[data-filters]")) {
    const table = document.getElementById(input.dataset.filters);
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const row of all("tbody tr:not(.group)", table))
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  }

  for (const select of all("select[data-baseline]")) {
    const table = document.getElementById(select.dataset.baseline);
    const show = () => {
      for (const row of all("tr[data-changes]", table)) {
        const changes = JSON.parse(row.dataset.changes)[select.value];
        [...row.cells].slice(1).forEach((cell, position) => {
          const small = cell.querySelector("small");
          if (!small) return;
          small.dataset.interval ??= small.textContent;
          const [text, kind] = changes ? changes[position] : [small.dataset.interval, ""];
          small.textContent = text;
          small.className = kind;
        });
      }
    };
    select.addEventListener("change", show);
    show();
  }

  for (const table of all("table.samples")) {
    const tools = document.getElementById(`${table.id}-tools`);
    const rows = all("tbody tr", table);
    table.addEventListener("sorted", () => {
      rows.splice(0, rows.length, ...all("tbody tr", table));
      apply();
    });
    const [text, failed, clear, count, more] = ["text", "failed", "clear", "count", "more"].map(
      (name) => tools.querySelector(`[data-is=${name}]`));
    const choices = all("select", tools);
    let cell = "";
    let most = MOST_ROWS;
    const apply = () => {
      const wanted = text.value.toLowerCase();
      let found = 0;
      for (const row of rows) {
        const anchor = row.dataset.cell;
        const fits = (
          (!cell || anchor === cell || anchor.startsWith(`${cell}.`)) &&
          choices.every((c) => !c.value || row.cells[c.dataset.column].textContent === c.value) &&
          (!failed.checked || row.dataset.failed) &&
          (!wanted || row.textContent.toLowerCase().includes(wanted))
        );
        found += fits;
        row.hidden = !fits || found > most;
      }
      count.textContent = `${Math.min(found, most)} of ${found} shown, ${rows.length} in all`;
      more.hidden = found <= most;
      clear.hidden = !cell;
      clear.textContent = `${cell.replace(/^x-/, "").replace(".", ", depth ")} ✕`;
    };
    for (const choice of choices) {
      const values = [...new Set(rows.map((row) => row.cells[choice.dataset.column].textContent))];
      values.sort((a, b) => order({ text: a, number: parseFloat(a.replace(",", "")) },
        { text: b, number: parseFloat(b.replace(",", "")) }, 1));
      choice.append(...values.map((one) => new Option(one)));
      choice.addEventListener("change", apply);
    }
    for (const input of [text, failed]) input.addEventListener("input", apply);
    clear.addEventListener("click", () => { cell = ""; apply(); });
    more.addEventListener("click", () => { most = Infinity; apply(); });
    const follow = () => {
      const target = decodeURIComponent(location.hash.slice(1));
      if (!target.startsWith("x-")) return;
      cell = target;
      text.value = "";
      failed.checked = false;
      for (const choice of choices) choice.value = "";
      apply();
      tools.scrollIntoView();
    };
    window.addEventListener("hashchange", follow);
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[href^='#x-']");
      // A second click on the same cell changes no hash.
      if (link && link.getAttribute("href") === location.hash) follow();
    });
    apply();
    follow();
  }
})();

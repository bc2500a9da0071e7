// What tests/built_site.py asks of a page in the browser. Each function returns lines that say what is wrong.

// Pictures that load when a reader comes near them are made to load now.
const loadAll = async () => {
  for (const img of document.images) img.loading = "eager";
  await Promise.all([...document.images].map((img) => img.decode().catch(() => {})));
};

// Broken pictures, formulas left as TeX or in error, and a page wider than its window.
const noticeable = () => {
  const out = [];
  for (const img of document.images)
    if (!img.complete || !img.naturalWidth) out.push("broken image: " + img.src.slice(0, 200));
  for (const bad of document.querySelectorAll("mjx-merror"))
    out.push("formula in error: " + bad.textContent);
  for (const math of document.querySelectorAll(".math"))
    if (!math.querySelector("mjx-container")) out.push("formula not set: " + math.textContent);
  const root = document.documentElement;
  if (root.scrollWidth > window.innerWidth)
    out.push(`page is ${root.scrollWidth} px wide in a window of ${window.innerWidth}`);
  return out;
};

// Moves each control of the page, and returns how often, and what did nothing.
const move = async () => {
  const out = [], soon = () => new Promise((resolve) => setTimeout(resolve, 0));
  const shown = (root, of) => [...root.querySelectorAll(of)].filter((e) => !e.hidden);
  let count = 0;
  const expect = (truth, root, what) => {
    count += 1;
    if (!truth) out.push(`${root.id || root.className}: ${what}`);
  };
  const send = (element, type) => element.dispatchEvent(new Event(type, { bubbles: true }));
  for (const root of document.querySelectorAll(".scrubber:not(.flips)")) {
    const input = root.querySelector("input"), said = root.querySelector("output");
    const [first] = shown(root, ".scrubber-frame"), before = said.value;
    const start = input.value;
    input.value = start === input.max ? 0 : input.max; send(input, "input");
    const now = shown(root, ".scrubber-frame");
    expect(now.length === 1, root, `shows ${now.length} frames at once`);
    expect(now[0] !== first && now[0].innerHTML !== first.innerHTML, root, "picture stays");
    expect(said.value !== before, root, "value stays");
    input.value = start; send(input, "input");
    expect(shown(root, ".scrubber-frame")[0] === first, root, "does not come back");
  }
  for (const root of document.querySelectorAll(".flips")) {
    const [previous, next] = root.querySelectorAll("button"), [first] = shown(root, ".flip-card");
    if (root.querySelectorAll(".flip-card").length > 1) {
      next.click();
      expect(shown(root, ".flip-card")[0] !== first, root, "Next shows the same flip");
      root.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
      expect(shown(root, ".flip-card")[0] === first, root, "the left key does not go back");
    }
    const select = root.querySelector("select");
    select.selectedIndex = select.options.length - 1; send(select, "change");
    const [card] = shown(root, ".flip-card");
    expect(card.dataset.kind === select.value, root, "the filter lets others through");
    select.selectedIndex = 0; send(select, "change");
  }
  for (const root of document.querySelectorAll(".explorer")) {
    const select = root.querySelector("select"), said = root.querySelector(".explorer-said");
    const texts = new Set();
    for (const option of select.options) {
      select.value = option.value; send(select, "change"); await soon();
      texts.add(said.textContent);
    }
    expect(texts.size === select.options.length, root, "methods share a sentence");
  }
  return [count, out];
};

// In dark mode: the page turns dark, drawings take the text's colour, pictures stand on white.
const dark = () => {
  const out = [];
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = rgb(text).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor, [, , , alpha = 1] = rgb(color);
      if (alpha > 0.99) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  if (light(behind(document.body)) > 0.1) out.push("the page stays light");
  for (const drawing of document.querySelectorAll(".scrubber svg, .explorer td, .flip-card b")) {
    const ratio = contrast(getComputedStyle(drawing).color, behind(drawing));
    if (ratio < 4.5) out.push(`contrast ${ratio.toFixed(1)} in ${drawing.closest("[id]")?.id}`);
  }
  for (const img of document.querySelectorAll(".cell_output img"))
    if (light(behind(img)) < 0.8 && !img.closest(".flip-card"))
      out.push("figure on a dark ground: " + (img.alt || img.src).slice(0, 80));
  return [...new Set(out)];
};

// Faults that axe-core calls serious, as pairs of rule and text.
const serious = async (rules) => {
  const options = { runOnly: rules, resultTypes: ["violations"], preload: false };
  const found = await axe.run(document, options);
  const bad = found.violations.filter((v) => ["serious", "critical"].includes(v.impact));
  const told = (v) => `${v.id}: ${v.nodes.length} times, as ${v.nodes[0].html.slice(0, 200)}`;
  return bad.map((v) => [v.id, told(v)]);
};

window.reader = { loadAll, noticeable, move, dark, serious };

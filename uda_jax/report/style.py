"""The style sheet of the report page, for light and dark screens."""

CSS = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #5d6670; --rule: #dde1e6; --card: #f6f7f9;
  --tint: 59, 125, 216; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --ink: #e4e7eb; --soft: #9aa3ad; --rule: #30363d; --card: #1c2126;
    --tint: 84, 150, 240; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 44px 0 4px; }
h3 { font-size: 15px; margin: 28px 0 8px; }
p { margin: 4px 0 12px; max-width: 85ch; }
.soft { color: var(--soft); font-size: 13.5px; }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th { font-weight: 600; text-align: right; vertical-align: bottom; color: var(--soft); font-size: 12.5px; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--rule); white-space: nowrap; text-align: right; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--page);
  color: var(--ink); }
thead th { border-bottom: 1.5px solid var(--soft); }
table.sources th, table.sources td { text-align: left; vertical-align: top; }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 9em; }
td.winner { font-weight: 700; }
table.classes th, table.classes td { padding: 5px 7px; }
table.classes thead span { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0 12px; font-size: 13px; }
.key span { display: inline-flex; align-items: center; gap: 6px; white-space: nowrap; }
.key i { width: 13px; height: 13px; border-radius: 3px; display: inline-block; }
.key svg { width: 24px; height: 8px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 390px), 1fr)); gap: 16px; }
.chart { width: 100%; height: auto; background: var(--card); border-radius: 8px; }
.frame { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 14px; }
figure { margin: 0; background: var(--card); border-radius: 8px; padding: 8px; break-inside: avoid; }
figure div { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; align-items: start; }
.ranked { margin: 10px 0; }
.ranked figure div { grid-template-columns: 1fr 1fr 1fr; }
figure img { width: 100%; display: block; border-radius: 3px; }
figcaption { font-size: 12.5px; padding: 6px 2px 0; display: flex; justify-content: space-between; gap: 8px; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--soft); }
code { font: 12.5px/1.5 ui-monospace, "SF Mono", Consolas, monospace; }
.notice { border-left: 3px solid #e07b28; background: var(--card); padding: 8px 14px; border-radius: 0 6px 6px 0; }
"""

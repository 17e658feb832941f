"""How the page looks: light and dark, wide screen and phone. No fonts, scripts or pictures to fetch."""

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --muted: #5f6773; --grid: #d9dde3; --paper: #ffffff;
  --page: #f3f4f6; --mark: #eef4ff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --muted: #9aa3b0; --grid: #3a424e;
  --paper: #1b2027; --page: #12161b; --mark: #1f2a3d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.45rem; line-height: 1.35; font-weight: 600; margin: .5rem 0 .4rem; text-wrap: pretty; }
h2 { font-size: 1.05rem; font-weight: 600; margin: 0 0 .6rem; }
p { margin: 0 0 .6rem; }
section > p:last-child { margin-bottom: 0; }
.about, figcaption, footer { color: var(--muted); font-size: .875rem; }
section, figure, details { background: var(--paper); border: 1px solid var(--grid); border-radius: 10px;
  padding: 1rem; margin: 0 0 1rem; }
.about { margin-bottom: 1.2rem; }
section .about { margin: .8rem 0 0; }
figure h2 { margin-bottom: .1rem; }
figcaption { margin-bottom: .5rem; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; }
.pictures .wide { grid-column: 1 / -1; }
.wide svg { max-width: 42rem; margin: 0 auto; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif !important; }
svg image { image-rendering: pixelated; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .5rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; padding-left: .3rem; font-weight: 400; }
thead th { color: var(--muted); font-weight: 400; vertical-align: bottom; }
tr.best > * { background: var(--mark); font-weight: 600; }
.words { text-align: left !important; white-space: normal; }
.scroll { overflow-x: auto; }
dl { display: grid; grid-template-columns: fit-content(45%) 1fr;
  gap: .2rem 1.2rem; margin: 0; font-size: .9rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 0 0 .6rem; padding: .8rem; overflow-x: auto; background: var(--page); border-radius: 6px;
  font: .82rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, monospace; font-size: .9em; }
ul { margin: 0; padding-left: 1.1rem; font-size: .95rem; } li { margin-bottom: .35rem; }
summary { cursor: pointer; font-weight: 600; } summary + * { margin-top: .8rem; }
@media (min-width: 44.01rem) { .wide svg text { font-size: 6px !important; } }
@media (max-width: 44rem) {
  main { padding: .75rem .6rem 2rem; } section, figure, details { padding: .8rem; }
  h1 { font-size: 1.2rem; } .pictures { grid-template-columns: 1fr; }
  thead { display: none; }
  tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.4rem; padding: .45rem .4rem;
    border-bottom: 1px solid var(--grid); }
  tr:last-child { border-bottom: 0; }
  tr.best { background: var(--mark); border-radius: 6px; }
  tr.best > td { background: none; font-weight: 400; }
  tr.best > th { background: none; }
  th:first-child, td { border: 0; padding: .08rem 0; background: none; }
  th:first-child { grid-column: 1 / -1; font-weight: 600; white-space: normal; }
  td { display: flex; justify-content: space-between; }
  td:empty { display: none; }
  td.words { grid-column: 1 / -1; gap: 1rem; }
  td::before { content: attr(data-label); color: var(--muted); }
  dl { column-gap: .8rem; }
}
"""

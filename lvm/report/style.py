"""The style of the page: light and dark, readable at 390 pixels, nothing loaded."""

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --panel: #f4f4f1; --ink: #1d2329;
  --soft: #5b656f; --line: #dcdedb; --accent: #1f5f8b; --pass: #1a6b3c; --fail: #a3332c;
  --unsure: #8a5a00; --none: #5b656f; --wash: #fdf4e0; --ladder: #b4bac0; --shade: #c9cdd0;
  --c1: #1f6fa8; --c2: #b8551b; --c3: #2b7a57; --c4: #8b4f9e; --c5: #8a6d00; --c6: #b03a68;
  --c7: #3d7f8c; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --panel: #1c2227; --ink: #e4e7ea;
  --soft: #9aa5af; --line: #333b43; --accent: #7db8e0; --pass: #6fca92; --fail: #f0908a;
  --unsure: #e4b45c; --none: #9aa5af; --wash: #2b2415; --ladder: #56616b; --shade: #48525b;
  --c1: #6db3e8; --c2: #ee9a63; --c3: #6cc79c; --c4: #c793d9; --c5: #d8b94a; --c6: #ee85ae;
  --c7: #79c3d1; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 76rem; padding: 2.5rem 1.25rem 5rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem 1rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3.5rem 0 1rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
#verdict h2 { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  margin: 0; padding: 0; border: 0; }
h3 { font-size: 1.08rem; margin: 2.5rem 0 .75rem; }
h4 { font-size: .9rem; margin: 1.25rem 0 .25rem; color: var(--soft); font-weight: 600; }
p { margin: .75rem 0; max-width: 46rem; }
.badge { margin: 0; padding: .2rem .7rem; border: 1.5px solid; border-radius: 1rem;
  font-weight: 600; font-size: .85rem; letter-spacing: .03em; }
.lead { font-size: 1.2rem; line-height: 1.5; font-weight: 500; margin: 1.5rem 0 1rem; }
.note, figcaption, .caption, small { color: var(--soft); font-size: .875rem; }
.warning { background: var(--wash); border-left: 4px solid var(--unsure); padding: .75rem 1rem;
  border-radius: 0 .4rem .4rem 0; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .unsure { color: var(--unsure); }
.none { color: var(--none); }
.word { font-weight: 600; font-size: .85em; letter-spacing: .02em; white-space: nowrap; }
h3 small { font-weight: 400; margin-left: .5rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.25rem; margin: 1rem 0 0; font-size: .9rem; }
a { color: var(--accent); text-underline-offset: .2em; }
.skip { position: absolute; left: -99rem; } .skip:focus { position: static; display: inline-block;
  margin-bottom: .75rem; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 2px; }
main:focus { outline: none; }
details { margin: 1rem 0; border: 1px solid var(--line); border-radius: .4rem; padding: 0 1rem; }
summary { cursor: pointer; padding: .6rem 0; font-weight: 600; font-size: .9rem; }
details[open] { padding-bottom: .5rem; }
details dl { grid-template-columns: 8rem 1fr; border-left: 3px solid var(--line);
  padding-left: .9rem; font-size: .9rem; }
details.long { border: 0; padding: 0; }
details.long summary { font-weight: 400; color: var(--soft); padding: 0; }
.caption::first-letter, details.long summary::first-letter { text-transform: uppercase; }
.label { font-weight: 600; margin-top: 1.5rem; }
dl { display: grid; grid-template-columns: minmax(7rem, 13rem) 1fr; gap: .4rem 1.25rem;
  margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; max-width: 46rem; }
.items { margin: .25rem 0 1rem; padding-left: 1.15rem; max-width: 50rem;
  overflow-wrap: anywhere; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem;
  padding: .75rem 1rem; overflow-x: auto;
  font: .875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.scroll { overflow-x: auto; margin: .25rem 0 1.5rem; border-bottom: 1px solid var(--line);
  background: linear-gradient(to right, var(--paper) 1.5rem, transparent) local,
    linear-gradient(to left, var(--paper) 1.5rem, transparent) 100% 0 local,
    linear-gradient(to right, var(--shade), transparent) scroll,
    linear-gradient(to left, var(--shade), transparent) 100% 0 scroll;
  background-repeat: no-repeat; background-size: 3rem 100%, 3rem 100%, .9rem 100%, .9rem 100%; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums;
  width: 100%; line-height: 1.4; }
.caption { margin: 1.25rem 0 0; }
.caption::first-letter, .plot-title::first-letter { text-transform: uppercase; }
th, td { padding: .42rem .4rem; text-align: left; vertical-align: top; white-space: nowrap;
  border-top: 1px solid var(--line); }
th:first-child { padding-left: 0; }
thead th { white-space: normal; vertical-align: bottom; font-weight: 600;
  color: var(--soft); border-top: 0; border-bottom: 1px solid var(--soft); }
tbody th { font-weight: 400; }
.strong th, .strong td { font-weight: 650; background: var(--panel); }
.r { text-align: right; } tbody th { white-space: normal; min-width: 10rem; max-width: 16rem; }
.interval { display: block; color: var(--soft); font-size: .92em; }
td.long { white-space: normal; min-width: 15rem; }
figure { margin: 1.5rem 0; } figcaption { margin-top: .75rem; max-width: 46rem; }
.wide { max-width: 44rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1.25rem 2rem; }
.plot-title { margin: 0 0 .3rem; font-size: .9rem; font-weight: 600; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft); font-size: 12px; } svg .name { fill: var(--ink); font-weight: 500; }
.grid { stroke: var(--line); stroke-width: 1; }
.gate { stroke: var(--unsure); stroke-width: 1.5; }
.rung { stroke: var(--soft); stroke-dasharray: 2 3; }
svg text.gate, svg text.rung { stroke: none; font-size: 11px; }
svg text.gate { fill: var(--unsure); }
.curve { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.dashed { stroke-dasharray: 5 4; } .mark { fill: currentColor; }
.c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); }
.c7 { color: var(--c7); } .ladder { color: var(--unsure); } .grey { color: var(--soft); }
.bar { fill: var(--ladder); } .bar.model { fill: var(--c1); }
.whisker { stroke: currentColor; stroke-width: 1.5; }
.area { fill: currentColor; fill-opacity: .3; stroke: currentColor; stroke-width: 1.5; }
rect.band { fill: var(--ladder); fill-opacity: .35; }
.panel .note { margin: .25rem 0 0; }
ol.tree, .tree ul { list-style: none; margin: 0; padding: 0; max-width: 46rem; }
ol.tree > li { position: relative; margin-left: .6rem; padding: 0 0 1.4rem 1.6rem;
  border-left: 2px solid var(--soft); }
ol.tree > li.passed { border-left-style: dotted; padding-bottom: .9rem; }
ol.tree > li.end { border-left-style: dotted; }
ol.tree > li:last-child { border-color: transparent; padding-bottom: 0; }
.tree .mark { position: absolute; left: 0; width: 1.2em; line-height: 1.3; text-align: center;
  background: var(--paper); }
ol.tree > li > .mark { left: calc(-.6em - 1px); font-size: 1.15rem; }
.tree p { margin: 0; line-height: 1.4; } .tree .why { color: var(--soft); font-size: .9rem; }
.passed .place strong { font-weight: 500; color: var(--soft); }
.tree .place small { margin-left: .25rem; }
.tree ul { margin-top: .5rem; font-size: .9rem; }
.tree ul li { position: relative; padding: .15rem 0 .15rem 1.6rem; line-height: 1.4;
  overflow-wrap: anywhere; }
.tree ul li strong { font-weight: 550; } .tree ul li span:last-child { color: var(--soft); }
.pruned > .mark, .broke > .mark { color: var(--fail); } .confirmed > .mark { color: var(--accent); }
.stopped > .mark, .left > .mark { color: var(--soft); }
svg .word { fill: currentColor; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; padding: 0;
  margin: .75rem 0 .25rem; font-size: .875rem; }
.legend li { display: flex; align-items: center; gap: .45rem; }
.legend svg { width: 30px; flex: none; }
.swatch { width: 1.1rem; height: .6rem; border-radius: 2px; background: var(--ladder); }
.swatch.model { background: var(--c1); }
.swatch.area { background: color-mix(in srgb, var(--c1) 30%, transparent);
  border: 1.5px solid var(--c1); }
.swatch.band { opacity: .35; }
@media (max-width: 36rem) { body { padding: 1.5rem 1rem 3rem; } dl { display: block; }
  dd { margin: 0 0 .6rem; } h2 { margin-top: 2.5rem; } svg text { font-size: 15px; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; } details { padding: 0 .75rem; }
  svg text.gate, svg text.rung { font-size: 12px; } }
@media print { nav, .skip { display: none; } body { max-width: none; }
  details::details-content { content-visibility: visible; }
  figure, tr { break-inside: avoid; } }
"""

// What a program knows of its own traffic, to be compared with what was observed.
//
// The value of `key:...:N` is N bytes long, so that a reply given to the wrong request shows; `absent:...` never exists.
'use strict';

const assert = require('node:assert/strict');

const told = { hits: {}, misses: {}, scripts: {}, batches: { PIPELINE: [], MULTI: [] }, pushes: 0 };

const add = (counts, operation, number) => {
  counts[operation] = (counts[operation] || 0) + number;
};

module.exports = {
  assert,
  told,
  hit: (operation, number = 1) => add(told.hits, operation, number),
  miss: (operation, number = 1) => add(told.misses, operation, number),
  script: (operation, number = 1) => add(told.scripts, operation, number),
  value: (key) => 'v'.repeat(Number(key.split(':').at(-1))),
  numbers: (first, last) => Array.from({ length: last - first + 1 }, (_, index) => first + index),
  say: () => console.log(JSON.stringify(told)),
  // Ends with an error rather than with half of what was to be done.
  run: (main) => main().catch((error) => {
    console.error(error);
    process.exit(1);
  }),
};

// What the guide's wrapper would have set around each call, had it been there: told by the program, to be compared with
// what was observed. A call is an object of the wrapper's attributes and of what only the test needs:
//
// spans     names of the guide's spans around the call
// kind      as the wrapper sets it, where it does
// server    port, where the program has several servers
// wire      false: nothing was sent
// command   its name on the wire, where the wrapper does not set it
// bytes     length of the values read or written
// commands  the calls of a pipeline
// events    events of those spans
// error     first word of the error
// hits, misses   of a read of several, where the wrapper does not set them
'use strict';

const assert = require('node:assert/strict');

const calls = [];

module.exports = {
  assert,
  told: (spans, facts) => calls.push({ spans, ...facts }),
  // Prints it, or ends with an error.
  run: (main) => main().then((more) => console.log(JSON.stringify({ calls, ...more }))).catch((error) => {
    console.error(error);
    process.exit(1);
  }),
};

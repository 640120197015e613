// What the guide's wrapper would have set around each call, had it been there: told by the program, to be compared with
// what was observed. A call is an object of the wrapper's attributes and of what only the test needs:
//
// spans         names of the guide's spans around the call
// kind          of the innermost, where the wrapper sets it
// events        of those spans
// message       the description of their status, where there is no error
// server        port, where the program has several servers
// wire          false: nothing was sent
// command       its name on the wire, where the wrapper does not set it
// commands      the calls of a pipeline
// transaction   whether the pipeline is one
// bytes         length of the values read or written
// hits, misses  of a read, where the wrapper does not set them
// error         first word of the error
'use strict';

const assert = require('node:assert/strict');

const calls = [];

module.exports = {
  assert,
  told: (spans, facts) => calls.push({ spans, ...facts }),
  // Prints it, or ends with an error.
  run: (main) => main().then(() => console.log(JSON.stringify({ calls }))).catch((error) => {
    console.error(error);
    process.exit(1);
  }),
};

// A pool of 2 to 10 connections, tested as they are borrowed: `pools.cjs PORT`. After each line it reads it goes one step
// further, and prints what the pool says of itself.
'use strict';

const readline = require('node:readline');
const { createPool } = require('generic-pool');
const Redis = require('ioredis');
const { assert } = require('./told.cjs');

const port = Number(process.argv[2]);
const MAX = 10;
const counted = { created: 0, destroyed: 0 };
const pool = createPool({
  create: async () => {
    const client = new Redis(port, '127.0.0.1');
    await client.ping();
    counted.created += 1;
    return client;
  },
  destroy: async (client) => {
    await client.quit();
    counted.destroyed += 1;
  },
  validate: async (client) => (await client.ping()) === 'PONG',
}, { min: 2, max: MAX, testOnBorrow: true });

async function use(work) {
  const start = performance.now();
  const client = await pool.acquire();
  acquired.push(performance.now() - start);
  try {
    return await work(client);
  } finally {
    await pool.release(client);
  }
}

const acquired = [];
let waiting = [];
const all = (number) => pool.borrowed === number && pool.spareResourceCapacity === 0;
const until = async (condition) => {
  while (!condition()) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

const steps = [
  // As many as it keeps.
  () => until(() => pool.available === 2),
  // All are held by requests that wait for an element, and three more borrowers wait for a connection.
  async () => {
    waiting = Array.from({ length: MAX + 3 }, () => use((client) => client.blpop('jobs', 0)));
    await until(() => all(MAX) && acquired.length === MAX);
  },
  // Others have added as many elements.
  async () => {
    const answers = await Promise.all(waiting);
    assert.ok(answers.every(([key]) => key === 'jobs'));
  },
  async () => {
    await pool.drain();
    await pool.clear();
  },
];

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    void line;
    const step = steps.shift();
    if (!step) {
      return;
    }
    await step();
    const { size, available, pending } = pool;
    console.log(JSON.stringify({ size, available, pending, ...counted, acquired: acquired.length }));
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});

// ioredis in a generic-pool: `generic_pool.cjs PORT`. At each line that it prints it holds still until it is sent one.
'use strict';

const readline = require('node:readline');
const genericPool = require('generic-pool');
const Redis = require('ioredis');

const port = Number(process.argv[2]);
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
let [created, destroyed, tested] = [0, 0, 0];

const pool = genericPool.createPool(
  {
    create: () => new Promise((resolve, reject) => {
      const redis = new Redis(port, '127.0.0.1');
      created += 1;
      redis.once('ready', () => resolve(redis)).once('error', reject);
    }),
    destroy: (redis) => new Promise((resolve) => {
      destroyed += 1;
      redis.once('end', resolve).disconnect();
    }),
    validate: async (redis) => {
      tested += 1;
      return (await redis.ping()) === 'PONG';
    },
  },
  { min: 2, max: 10, testOnBorrow: true },
);

async function hold(used) {
  const told = { size: pool.size, used, borrowed: pool.borrowed, opened: created, closed: destroyed, tested };
  console.log(JSON.stringify(told));
  if ((await lines.next()).done) {
    throw new Error('the test is gone');
  }
}

async function main() {
  await pool.ready();
  await hold(0);
  // Each borrowed connection waits for what is never pushed before it is told to be.
  const borrowed = await Promise.all(Array.from({ length: 6 }, () => pool.acquire()));
  const answers = borrowed.map((redis, n) => redis.blpop(`held:${n}`, 60));
  await new Promise((resolve) => { setTimeout(resolve, 50); });
  await hold(6);
  const other = await pool.acquire();
  for (const n of borrowed.keys()) {
    await other.rpush(`held:${n}`, 'x');
  }
  await Promise.all(answers);
  await Promise.all([...borrowed, other].map((redis) => pool.release(redis)));
  // Borrowed without being used: no byte but the test's says so.
  const idle = await Promise.all([pool.acquire(), pool.acquire()]);
  await hold(0);
  await Promise.all(idle.map((redis) => pool.release(redis)));
  await pool.drain();
  await pool.clear();
  await hold(0);
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

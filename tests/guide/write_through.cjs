// Each write goes to the source, then to the cache: `write_through.cjs PORT`.
'use strict';

const Redis = require('ioredis');
const { assert, told, run } = require('./told.cjs');

const redis = new Redis(Number(process.argv[2]), '127.0.0.1');
const TTL = 120;
const source = new Map();
const named = (id) => `account:${id}`;
const pattern = (id) => ({ 'cache.pattern': 'write-through', 'cache.key': named(id) });

async function save(id, data) {
  const outer = 'write-through.save';
  source.set(id, data);
  told([outer, 'datasource.save'], { ...pattern(id), wire: false });
  const text = JSON.stringify(data);
  await redis.set(named(id), text, 'EX', TTL);
  told([outer, 'cache.set'], { ...pattern(id), kind: 'CLIENT', command: 'SET', bytes: text.length });
}

run(async () => {
  await save('7', { balance: 100 });
  await save('7', { balance: 90 });
  await save('8', { balance: 5 });
  // What was written can be read, and the source need not be asked.
  for (const id of ['7', '8']) {
    const text = await redis.get(named(id));
    assert.deepEqual(JSON.parse(text), source.get(id));
    told([], { command: 'GET', hits: 1, bytes: text.length });
  }
  redis.disconnect();
});

// Three levels asked in turn for one key: memory, Redis, Memcached. `multi_level.cjs REDIS_PORT MEMCACHED_PORT`.
'use strict';

const Redis = require('ioredis');
const { Client } = require('memjs');
const { assert, told, run } = require('./told.cjs');

const [near, far] = process.argv.slice(2).map(Number);
const redis = new Redis(near, '127.0.0.1');
const memcached = Client.create(`127.0.0.1:${far}`, { retries: 1, timeout: 10, logger: { log() {} } });
const memory = new Map();
const levels = [
  { name: 'memory', get: async (key) => memory.get(key) ?? null, set: async (key, value) => memory.set(key, value) },
  { name: 'near', server: near, get: (key) => redis.get(key), set: (key, value) => redis.set(key, value) },
  {
    name: 'far',
    server: far,
    get: async (key) => (await memcached.get(key)).value?.toString() ?? null,
    set: (key, value) => memcached.set(key, value, {}),
  },
];

const place = (level) => (level.server ? { server: level.server } : { wire: false });
const whole = (key) => ({ 'cache.key': key, 'cache.levels': levels.map((level) => level.name).join(', ') });

async function put(level, key, value, around) {
  await level.set(key, value);
  told([around], { ...place(level), ...whole(key), command: 'SET', bytes: value.length });
}

async function get(key) {
  for (const [number, level] of levels.entries()) {
    const value = await level.get(key);
    const facts = {
      ...place(level),
      ...whole(key),
      kind: 'CLIENT',
      command: 'GET',
      'cache.level': number,
      'cache.level_name': level.name,
      'cache.hit': value !== null,
    };
    const around = ['multilevel-cache.get', `cache.get ${level.name}`];
    if (value === null) {
      told(around, facts);
      continue;
    }
    told(around, { ...facts, bytes: value.length, 'cache.hit_level': level.name, events: ['cache-hit'] });
    for (const higher of levels.slice(0, number)) {
      await put(higher, key, value, 'multilevel-cache.get');
    }
    return value;
  }
  return null;
}

const set = (key, value) => Promise.all(levels.map((level) => put(level, key, value, 'multilevel-cache.set')));

run(async () => {
  await set('rate:eur', '1.07');
  assert.equal(await get('rate:eur'), '1.07');
  // Only the far level has it, then all have.
  memory.clear();
  await redis.flushall();
  told([], { server: near, command: 'FLUSHALL' });
  assert.equal(await get('rate:eur'), '1.07');
  assert.equal(await get('rate:eur'), '1.07');
  // The near level has it.
  memory.clear();
  assert.equal(await get('rate:eur'), '1.07');
  // None has.
  assert.equal(await get('rate:usd'), null);
  redis.disconnect();
  memcached.quit();
});

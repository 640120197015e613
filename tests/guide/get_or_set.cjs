// A cache with a name, a prefix and a time to live, which makes what it does not have: `get_or_set.cjs PORT`.
'use strict';

const Redis = require('ioredis');
const { assert, told, run } = require('./told.cjs');

const redis = new Redis(Number(process.argv[2]), '127.0.0.1');
// As the observer's configuration names the server, too.
const NAME = 'get_or_set';
const TTL = 3600;
const full = (key) => `shop:${key}`;

const tell = (operation, around, key, facts) => told([...around, `cache.${operation} ${NAME}`], {
  kind: 'CLIENT', 'cache.name': NAME, 'cache.operation': operation, 'cache.key': full(key), ...facts,
});

async function get(key, around = []) {
  const start = performance.now();
  const text = await redis.get(full(key));
  const facts = { command: 'GET', 'cache.latency_ms': performance.now() - start, 'cache.hit': text !== null };
  if (text !== null) {
    Object.assign(facts, { 'cache.value_size': text.length, bytes: text.length });
  }
  tell('get', around, key, facts);
  return text && JSON.parse(text);
}

async function set(key, value, ttl = TTL, around = []) {
  const text = JSON.stringify(value);
  await redis.set(full(key), text, 'EX', ttl);
  const size = { 'cache.value_size': text.length, bytes: text.length };
  tell('set', around, key, { command: 'SET', 'cache.ttl': ttl, ...size });
}

async function getOrSet(key, make, ttl) {
  const around = [`cache.getOrSet ${NAME}`];
  const there = await get(key, around);
  if (there !== null) {
    return there;
  }
  const made = await make();
  await set(key, made, ttl, around);
  return made;
}

async function invalidate(key) {
  await redis.del(full(key));
  tell('invalidate', [], key, { command: 'DEL' });
}

run(async () => {
  const article = { name: 'lamp', price: 19.5 };
  let made = 0;
  const make = async () => {
    made += 1;
    return article;
  };
  for (const key of ['article:1', 'article:2', 'article:1']) {
    assert.deepEqual(await getOrSet(key, make), article);
  }
  assert.deepEqual(await getOrSet('article:3', make, 30), article);
  assert.equal(made, 3);
  assert.deepEqual(await get('article:3'), article);
  const left = await redis.ttl(full('article:2'));
  assert.ok(left > 3500 && left <= TTL);
  told([], { command: 'TTL', 'TTL remaining': left, hits: 1 });
  await invalidate('article:1');
  assert.equal(await get('article:1'), null);
  redis.disconnect();
});

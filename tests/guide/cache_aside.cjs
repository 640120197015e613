// Read from the cache, on a miss from the source, then fill the cache; what has changed is removed. `cache_aside.cjs PORT`
'use strict';

const Redis = require('ioredis');
const { assert, told, run } = require('./told.cjs');

const redis = new Redis(Number(process.argv[2]), '127.0.0.1');
const TTL = 300;
const source = new Map([['1', { title: 'Dune' }], ['2', { title: 'Emma' }]]);
const named = (id) => `book:${id}`;
const pattern = (id) => ({ 'cache.pattern': 'cache-aside', 'cache.key': named(id) });

async function get(id) {
  const outer = 'cache-aside.get';
  const cached = await redis.get(named(id));
  told([outer, 'cache.get'], {
    ...pattern(id), kind: 'CLIENT', command: 'GET', 'cache.hit': cached !== null, bytes: cached?.length,
  });
  if (cached !== null) {
    return JSON.parse(cached);
  }
  const found = source.get(id) ?? null;
  told([outer, 'datasource.fetch'], { ...pattern(id), wire: false });
  if (found !== null) {
    const text = JSON.stringify(found);
    await redis.set(named(id), text, 'EX', TTL);
    told([outer, 'cache.set'], { ...pattern(id), kind: 'CLIENT', command: 'SET', bytes: text.length });
  }
  return found;
}

async function invalidate(id) {
  await redis.del(named(id));
  told(['cache-aside.invalidate'], { ...pattern(id), command: 'DEL' });
}

run(async () => {
  for (const id of ['1', '2', '1', '2']) {
    assert.equal((await get(id)).title, source.get(id).title);
  }
  assert.equal(await get('3'), null);
  source.set('1', { title: 'Dune Messiah' });
  await invalidate('1');
  assert.equal((await get('1')).title, 'Dune Messiah');
  redis.disconnect();
});

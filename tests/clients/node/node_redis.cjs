// The package redis: `node_redis.cjs PORT PROTOCOL PART…`.
'use strict';

const { createClient } = require('redis');
const { assert, told, hit, miss, script, value, numbers, say, run } = require('./told.cjs');

const [port, protocol, ...wanted] = process.argv.slice(2);
const connect = () => createClient({
  socket: { host: '127.0.0.1', port: Number(port) },
  RESP: Number(protocol),
}).connect();

const parts = {
  async plain(redis) {
    redis = redis ?? await connect();
    for (const n of numbers(1, 200)) {
      await redis.set(`key:${n}`, value(`key:${n}`), { EX: 600 });
      assert.equal((await redis.get(`key:${n}`)).length, n);
      assert.equal(await redis.get(`absent:${n}`), null);
      hit('GET');
      miss('GET');
    }
    const found = await redis.mGet(['key:3', 'absent:1', 'key:50']);
    assert.deepEqual(found.map((one) => one && one.length), [3, null, 50]);
    hit('MGET', 2);
    miss('MGET');
    await redis.hSet('hash', { one: '1', two: '22' });
    assert.equal(await redis.hGet('hash', 'two'), '22');
    hit('HGET');
    assert.equal((await redis.hGetAll('hash')).one, '1');
    hit('HGETALL');
    await redis.zAdd('zset', [{ score: 1, value: 'a' }, { score: 2.5, value: 'b' }]);
    assert.equal((await redis.zRangeWithScores('zset', 0, -1))[1].score, 2.5);
    hit('ZRANGE');
    await assert.rejects(redis.lPush('key:1', 'x'), /WRONGTYPE/);
    for (const n of numbers(1, 5)) {
      const lua = "return redis.call('get', KEYS[1])";
      assert.equal((await redis.eval(lua, { keys: [`key:${n}`] })).length, n);
      script('GET');
    }
    let scanned = 0;
    for await (const keys of redis.scanIterator({ MATCH: 'key:*', COUNT: 50 })) {
      scanned += keys.length;
    }
    assert(scanned >= 200);
    await redis.close();
  },

  async multi() {
    const redis = await connect();
    for (const round of numbers(1, 10)) {
      const multi = redis.multi();
      for (const n of numbers(1, 20)) {
        const key = `key:${round}:${n * 11}`;
        multi.set(key, value(key)).get(key);
      }
      const answers = await multi.exec();
      numbers(1, 20).forEach((n) => assert.equal(answers[n * 2 - 1].length, n * 11));
      hit('GET', 20);
      told.batches.MULTI.push(40);
    }
    await redis.close();
  },

  // What is asked in one turn of the event loop leaves together.
  async auto() {
    const redis = await connect();
    for (const round of numbers(1, 20)) {
      const keys = numbers(1, 25).map((n) => `key:${round}:${n * 7}`);
      await Promise.all(keys.map((key) => redis.set(key, value(key))));
      const found = await Promise.all(keys.flatMap((key) => [redis.get(key), redis.get(`absent:${key}`)]));
      keys.forEach((key, index) => assert.equal(found[index * 2], value(key)));
      hit('GET', 25);
      miss('GET', 25);
      told.batches.PIPELINE.push(25, 50);
    }
    await redis.close();
  },

  async ten_thousand() {
    const redis = await connect();
    const keys = numbers(0, 9999).map((n) => `key:${n}:${1 + ((n * 7919) % 509)}`);
    await Promise.all(keys.map((key) => redis.set(key, value(key))));
    const found = await Promise.all(keys.map((key) => redis.get(key)));
    keys.forEach((key, index) => assert.equal(found[index], value(key)));
    hit('GET', 10000);
    await parts.plain(redis);
  },

  async subscribe() {
    const [redis, subscriber] = [await connect(), await connect()];
    const heard = [];
    let done;
    const all = new Promise((resolve) => { done = resolve; });
    await subscriber.subscribe('news', (message) => heard.push(message) === 50 && done());
    for (const n of numbers(1, 50)) {
      assert.equal(await redis.publish('news', 'm'.repeat(n)), 1);
      told.pushes += 1;
    }
    await all;
    heard.forEach((message, index) => assert.equal(message.length, index + 1));
    await subscriber.unsubscribe('news');
    await redis.close();
    await subscriber.close();
  },
};

run(async () => {
  for (const part of wanted) {
    await parts[part]();
  }
  say();
});

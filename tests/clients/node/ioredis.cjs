// ioredis: `ioredis.cjs PORT PACKAGE PART…`.
'use strict';

const { assert, told, hit, miss, script, value, numbers, say, run } = require('./told.cjs');

const [port, name, ...wanted] = process.argv.slice(2);
const Redis = require(name);
const connect = (options) => new Redis(Number(port), '127.0.0.1', options);

const parts = {
  async plain(redis = connect()) {
    for (const n of numbers(1, 200)) {
      await redis.set(`key:${n}`, value(`key:${n}`));
      assert.equal((await redis.get(`key:${n}`)).length, n);
      assert.equal(await redis.get(`absent:${n}`), null);
      hit('GET');
      miss('GET');
    }
    const found = await redis.mget('key:3', 'absent:1', 'key:50');
    assert.deepEqual(found.map((one) => one && one.length), [3, null, 50]);
    hit('MGET', 2);
    miss('MGET');
    await redis.hset('hash', { one: '1', two: '22' });
    assert.equal(await redis.hget('hash', 'two'), '22');
    hit('HGET');
    await assert.rejects(redis.lpush('key:1', 'x'), /WRONGTYPE/);
    redis.defineCommand('read', { numberOfKeys: 1, lua: "return redis.call('get', KEYS[1])" });
    for (const n of numbers(1, 5)) {
      assert.equal((await redis.read(`key:${n}`)).length, n);
      script('GET');
    }
    redis.disconnect();
  },

  async pipeline() {
    const redis = connect();
    for (const round of numbers(1, 10)) {
      const pipeline = redis.pipeline();
      for (const n of numbers(1, 20)) {
        const key = `key:${round}:${n * 13}`;
        pipeline.set(key, value(key)).get(key).get(`absent:${n}`);
      }
      const answers = await pipeline.exec();
      numbers(1, 20).forEach((n) => assert.equal(answers[n * 3 - 2][1].length, n * 13));
      hit('GET', 20);
      miss('GET', 20);
      told.batches.PIPELINE.push(60);
    }
    redis.disconnect();
  },

  async multi() {
    const redis = connect();
    for (const round of numbers(1, 10)) {
      const multi = redis.multi();
      for (const n of numbers(1, 20)) {
        const key = `key:${round}:${n * 11}`;
        multi.set(key, value(key)).get(key);
      }
      const answers = await multi.exec();
      numbers(1, 20).forEach((n) => assert.equal(answers[n * 2 - 1][1].length, n * 11));
      hit('GET', 20);
      told.batches.MULTI.push(40);
    }
    // Each command in a send of its own.
    await redis.multi({ pipeline: false });
    await redis.set('key:9', value('key:9'));
    await redis.get('key:9');
    assert.equal((await redis.exec())[1][1].length, 9);
    hit('GET');
    told.batches.MULTI.push(2);
    redis.disconnect();
  },

  // What is asked in one turn of the event loop leaves in one pipeline.
  async auto() {
    const redis = connect({ enableAutoPipelining: true });
    for (const round of numbers(1, 20)) {
      const keys = numbers(1, 25).map((n) => `key:${round}:${n * 7}`);
      await Promise.all(keys.map((key) => redis.set(key, value(key))));
      const found = await Promise.all(keys.flatMap((key) => [redis.get(key), redis.get(`absent:${key}`)]));
      keys.forEach((key, index) => assert.equal(found[index * 2], value(key)));
      hit('GET', 25);
      miss('GET', 25);
      told.batches.PIPELINE.push(25, 50);
    }
    redis.disconnect();
  },

  async subscribe() {
    const [redis, subscriber] = [connect(), connect()];
    await subscriber.subscribe('news', 'weather');
    const heard = [];
    const all = new Promise((resolve) => {
      subscriber.on('message', (channel, message) => heard.push(message) === 50 && resolve());
    });
    for (const n of numbers(1, 50)) {
      assert.equal(await redis.publish('news', 'm'.repeat(n)), 1);
      told.pushes += 1;
    }
    await all;
    heard.forEach((message, index) => assert.equal(message.length, index + 1));
    await subscriber.unsubscribe('news', 'weather');
    redis.disconnect();
    subscriber.disconnect();
  },

  async ten_thousand() {
    const redis = connect();
    const keys = numbers(0, 9999).map((n) => `key:${n}:${1 + ((n * 7919) % 509)}`);
    for (const command of ['set', 'get']) {
      const pipeline = redis.pipeline();
      keys.forEach((key) => (command === 'set' ? pipeline.set(key, value(key)) : pipeline.get(key)));
      const answers = await pipeline.exec();
      if (command === 'get') {
        keys.forEach((key, index) => assert.equal(answers[index][1], value(key)));
      }
    }
    hit('GET', 10000);
    await parts.plain(redis);
  },
};

run(async () => {
  for (const part of wanted) {
    await parts[part]();
  }
  say();
});

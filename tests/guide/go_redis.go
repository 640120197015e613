// Single commands, MGET with its rate, and DEL with its count, with go-redis: `go_redis PORT`.
//
// What it prints is described in told.cjs.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"gopkg.in/redis.v5"
)

type facts map[string]interface{}

var calls []facts
var address = "127.0.0.1:" + os.Args[1]

func told(operation string, more facts) {
	call := facts{
		"spans": []string{"redis " + operation}, "kind": "CLIENT", "db.system": "redis", "db.name": "0",
		"net.peer.name": address, "db.operation": operation,
	}
	for name, value := range more {
		call[name] = value
	}
	calls = append(calls, call)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func is(holds bool, what string) {
	if !holds {
		panic(what)
	}
}

func main() {
	client := redis.NewClient(&redis.Options{Addr: address})
	value := strings.Repeat("v", 1000)

	must(client.Set("order:1", value, 90*time.Second).Err())
	told("SET", facts{"db.redis.key": "order:1", "db.redis.ttl_seconds": 90, "bytes": 1000})
	must(client.Set("order:3", value[:30], 0).Err())
	told("SET", facts{"db.redis.key": "order:3", "db.redis.ttl_seconds": 0, "bytes": 30})

	found, err := client.Get("order:1").Result()
	must(err)
	told("GET", facts{"db.redis.key": "order:1", "cache.hit": true, "cache.value_size": len(found), "bytes": len(found)})
	is(client.Get("order:4").Err() == redis.Nil, "there is no order:4")
	told("GET", facts{"db.redis.key": "order:4", "cache.hit": false, "message": "cache miss"})

	keys := []string{"order:1", "order:3", "order:4", "order:5"}
	values, err := client.MGet(keys...).Result()
	must(err)
	hits := 0
	for _, value := range values {
		if value != nil {
			hits++
		}
	}
	is(hits == 2, fmt.Sprint(values))
	told("MGET", facts{
		"db.redis.key_count": len(keys), "cache.hits": hits, "cache.misses": len(keys) - hits,
		"cache.hit_rate": float64(hits) / float64(len(keys)), "bytes": 1030,
	})

	deleted, err := client.Del("order:1", "order:3", "order:4").Result()
	must(err)
	is(deleted == 2, "two were there")
	told("DEL", facts{"db.redis.key_count": 3, "db.redis.deleted_count": deleted})

	must(client.LPush("queue", "x").Err())
	told("LPUSH", facts{"bytes": 1})
	is(client.Get("queue").Err() != nil, "a list is no string")
	told("GET", facts{"db.redis.key": "queue", "events": []string{"exception"}, "error": "WRONGTYPE"})
	must(client.Close())
	must(json.NewEncoder(os.Stdout).Encode(facts{"calls": calls}))
}

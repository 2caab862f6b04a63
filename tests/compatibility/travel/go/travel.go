// pgx 4: types registered on each connection under OIDs that the process reads once; statements that it prepares, describes, or sends by the
// simple protocol. What it says and hears is told in python/speak.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgconn/stmtcache"
	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
)

var columns = strings.Fields("feeling feelings spot spots span tags many_tags name names amount amounts note notes")

type opened struct {
	label      string
	connection *pgx.Conn
	// It has its kept statement.
	keeps bool
}

var oids map[string]uint32

func readOids(connection *pgx.Conn) error {
	names := []string{"mood", "mood[]", "place", "place[]", "hstore", "hstore[]", "citext", "citext[]", "positive[]", "note", "note[]", "span"}
	rows, err := connection.Query(context.Background(), "SELECT n, n::regtype::oid FROM unnest($1::text[]) n", names)
	if err != nil {
		return err
	}
	defer rows.Close()
	oids = map[string]uint32{}
	for rows.Next() {
		var name string
		var oid uint32
		if err := rows.Scan(&name, &oid); err != nil {
			return err
		}
		oids[name] = oid
	}
	return rows.Err()
}

func register(info *pgtype.ConnInfo) error {
	arrays := map[string]func() pgtype.ValueTranscoder{
		"mood":     func() pgtype.ValueTranscoder { return pgtype.NewEnumType("mood", []string{"sad", "ok", "happy"}) },
		"hstore":   func() pgtype.ValueTranscoder { return &pgtype.Hstore{} },
		"citext":   func() pgtype.ValueTranscoder { return &pgtype.Text{} },
		"positive": func() pgtype.ValueTranscoder { return &pgtype.Int4{} },
	}
	add := func(name string, element func() pgtype.ValueTranscoder) {
		if oid, isKnown := oids[name]; isKnown {
			info.RegisterDataType(pgtype.DataType{Value: element(), Name: name, OID: oid})
		}
		array := pgtype.NewArrayType(name+"[]", oids[name], element)
		info.RegisterDataType(pgtype.DataType{Value: array, Name: name + "[]", OID: oids[name+"[]"]})
	}
	for _, name := range []string{"mood", "hstore", "citext", "positive"} {
		add(name, arrays[name])
	}
	place, err := pgtype.NewCompositeType("place", []pgtype.CompositeTypeField{{Name: "x", OID: pgtype.Int4OID}, {Name: "y", OID: pgtype.Int4OID}, {Name: "label", OID: pgtype.TextOID}}, info)
	if err != nil {
		return err
	}
	add("place", func() pgtype.ValueTranscoder { return place.NewTypeValue().(pgtype.ValueTranscoder) })
	note, err := pgtype.NewCompositeType("note", []pgtype.CompositeTypeField{{Name: "feeling", OID: oids["mood"]}, {Name: "spot", OID: oids["place"]}, {Name: "feelings", OID: oids["mood[]"]}, {Name: "tags", OID: oids["hstore"]}}, info)
	if err != nil {
		return err
	}
	add("note", func() pgtype.ValueTranscoder { return note.NewTypeValue().(pgtype.ValueTranscoder) })
	return nil
}

func open(name string) ([]*opened, error) {
	var all []*opened
	for _, variant := range []string{"prepared", "described", "simple"} {
		config, err := pgx.ParseConfig("sslmode=disable")
		if err != nil {
			return nil, err
		}
		switch variant {
		case "described":
			config.BuildStatementCache = func(connection *pgconn.PgConn) stmtcache.Cache {
				return stmtcache.New(connection, stmtcache.ModeDescribe, 512)
			}
		case "simple":
			config.PreferSimpleProtocol = true
		}
		connection, err := pgx.ConnectConfig(context.Background(), config)
		if err != nil {
			return nil, err
		}
		if oids == nil {
			if err := readOids(connection); err != nil {
				return nil, err
			}
		}
		if err := register(connection.ConnInfo()); err != nil {
			return nil, err
		}
		all = append(all, &opened{label: name + "/" + variant, connection: connection})
	}
	return all, nil
}

// The types and values of a row.
func one(connection *pgx.Conn, sql string, values ...interface{}) (string, string, error) {
	rows, err := connection.Query(context.Background(), sql, values...)
	if err != nil {
		return "", "", err
	}
	defer rows.Close()
	var kinds, shown []string
	for rows.Next() {
		found, err := rows.Values()
		if err != nil {
			return "", "", err
		}
		for at, value := range found {
			kinds = append(kinds, fmt.Sprintf("%d %T", rows.FieldDescriptions()[at].DataTypeOID, value))
			shown = append(shown, plain(value))
		}
	}
	return strings.Join(kinds, ", "), strings.Join(shown, ", "), rows.Err()
}

func plain(value interface{}) string {
	switch value := value.(type) {
	case map[string]pgtype.Text:
		var parts []string
		for key, held := range value {
			parts = append(parts, fmt.Sprintf("%s=%q/%d", key, held.String, held.Status))
		}
		sort.Strings(parts)
		return strings.Join(parts, ",")
	default:
		text, err := json.Marshal(value)
		if err != nil {
			return fmt.Sprintf("%+v", value)
		}
		return string(text)
	}
}

func tell(label, name, kind, value string) {
	quoted, _ := json.Marshal(value)
	fmt.Printf("pgx|%s|%s|%s|%s\n", label, name, kind, quoted)
}

func ask(connection *opened) {
	is := func(name, sql string, values ...interface{}) {
		kinds, shown, err := one(connection.connection, sql, values...)
		if err != nil {
			kinds, shown = "ERROR", err.Error()
		}
		tell(connection.label, name, kinds, shown)
	}
	for _, column := range columns {
		is("read "+column, "SELECT "+column+" FROM things WHERE id = 1")
	}
	tags := &pgtype.Hstore{Map: map[string]pgtype.Text{"a": {String: "1", Status: pgtype.Present}}, Status: pgtype.Present}
	is("function of mood", "SELECT fo($1::mood), pg_typeof($1)::text", "ok")
	is("function of moods", "SELECT fo($1::mood[])", []string{"ok", "sad"})
	is("function of tags", "SELECT fo($1::hstore)", tags)
	is("function of place", "SELECT fo($1::place)", "(1,2,b)")
	is("moods", "SELECT $1::mood[]", []string{"ok", "sad"})
	is("find", "SELECT id FROM things WHERE feeling = $1 AND feelings = $2::mood[]", "happy", []string{"sad", "ok"})
	is("write", "INSERT INTO written (client, feeling, feelings, tags) VALUES ('pgx', $1, $2::mood[], $3) "+
		"ON CONFLICT (client) DO UPDATE SET feeling = excluded.feeling RETURNING feeling, feelings, tags", "ok", []string{"ok", "sad"}, tags)
	// Types named by OID: those of the process.
	name := "kept"
	found := connection.connection.PgConn().ExecParams(context.Background(), "SELECT fo($1), pg_typeof($1)", [][]byte{[]byte("ok")}, []uint32{oids["mood"]}, nil, nil).Read()
	tellResult(connection.label, "function by OID", found)
	if !connection.keeps {
		connection.keeps = true
		if _, err := connection.connection.PgConn().Prepare(context.Background(), name, "SELECT fo($1), pg_typeof($1)", []uint32{oids["mood"]}); err != nil {
			tell(connection.label, "prepare by OID", "ERROR", err.Error())
		}
	}
	found = connection.connection.PgConn().ExecPrepared(context.Background(), name, [][]byte{[]byte("ok")}, nil, nil).Read()
	tellResult(connection.label, "function by OID, kept", found)
}

func tellResult(label, name string, found *pgconn.Result) {
	if found.Err != nil {
		tell(label, name, "ERROR", found.Err.Error())
		return
	}
	tell(label, name, "text", fmt.Sprintf("%s %s", found.Rows[0][0], found.Rows[0][1]))
}

func main() {
	var all []*opened
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "open":
			more, err := open(words[1])
			if err != nil {
				tell(words[1]+"/all", "open", "ERROR", err.Error())
			}
			all = append(all, more...)
		case "ask":
			for _, connection := range all {
				ask(connection)
			}
		case "end":
			return
		}
		fmt.Println("done")
	}
}

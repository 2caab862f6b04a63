import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.TreeSet;
import org.postgresql.util.PGobject;

/**
 * pgjdbc: statements that are prepared on the server from their first run on, those that are not, and the simple protocol. What each says and
 * hears is told in python/speak.py.
 */
public class Travel {
    static final String[] COLUMNS = ("feeling feelings spot spots span spans tags many_tags name names amount amounts note notes").split(" ");

    interface Ask {
        Object get() throws Exception;
    }

    /** A connection, and the statements that it keeps. */
    static final class Opened {
        final String label;
        final Connection connection;
        final Map<String, PreparedStatement> kept = new TreeMap<>();

        Opened(String label, Connection connection) {
            this.label = label;
            this.connection = connection;
        }

        PreparedStatement prepare(String sql) throws SQLException {
            PreparedStatement known = kept.get(sql);
            if (known == null) {
                known = connection.prepareStatement(sql);
                kept.put(sql, known);
            }
            return known;
        }

        List<Object> one(String sql, Object... values) throws SQLException {
            PreparedStatement statement = prepare(sql);
            for (int at = 0; at < values.length; at++) {
                if (values[at] instanceof Array) {
                    statement.setArray(at + 1, (Array) values[at]);
                } else if (values[at] instanceof String) {
                    statement.setObject(at + 1, values[at], Types.OTHER);
                } else {
                    statement.setObject(at + 1, values[at]);
                }
            }
            try (ResultSet found = statement.executeQuery()) {
                found.next();
                List<Object> row = new ArrayList<>();
                for (int at = 1; at <= found.getMetaData().getColumnCount(); at++) {
                    row.add(found.getMetaData().getColumnTypeName(at));
                    row.add(found.getObject(at));
                }
                return row;
            }
        }

        void say(String name, Ask ask) {
            String kind;
            String value;
            try {
                Object answer = ask.get();
                kind = kind(answer);
                value = shown(answer);
            } catch (Exception error) {
                kind = "ERROR";
                value = error.toString();
            }
            System.out.println("pgjdbc|" + label + "|" + name + "|" + kind + "|\"" + quoted(value) + "\"");
        }
    }

    static String quoted(String value) {
        return value.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n");
    }

    static Object[] parts(Object value) throws SQLException {
        if (value instanceof Array) {
            return (Object[]) ((Array) value).getArray();
        }
        return value instanceof List ? ((List<?>) value).toArray() : null;
    }

    static String kind(Object value) throws SQLException {
        Object[] parts = parts(value);
        if (parts == null) {
            return value == null ? "null" : value.getClass().getSimpleName();
        }
        TreeSet<String> kinds = new TreeSet<>();
        for (Object part : parts) {
            kinds.add(kind(part));
        }
        return (value instanceof Array ? ((Array) value).getBaseTypeName() : "row") + kinds;
    }

    static String shown(Object value) throws SQLException {
        if (value instanceof Map) {
            return new TreeMap<Object, Object>((Map<?, ?>) value).toString();
        }
        Object[] parts = parts(value);
        if (parts == null) {
            return String.valueOf(value);
        }
        List<String> shown = new ArrayList<>();
        for (Object part : parts) {
            shown.add(shown(part));
        }
        return shown.toString();
    }

    static List<Opened> open(String name) throws SQLException {
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        String[][] variants = {
            {"prepared", "prepareThreshold", "1"}, {"at once", "prepareThreshold", "0"}, {"binary", "prepareThreshold", "-1"}, {"simple", "preferQueryMode", "simple"},
        };
        List<Opened> opened = new ArrayList<>();
        for (String[] variant : variants) {
            Properties properties = new Properties();
            properties.setProperty("user", System.getenv("PGUSER"));
            properties.setProperty("password", System.getenv("PGPASSWORD"));
            properties.setProperty("sslmode", "disable");
            properties.setProperty(variant[1], variant[2]);
            opened.add(new Opened(name + "/" + variant[0], DriverManager.getConnection(url, properties)));
        }
        return opened;
    }

    static PGobject object(String type, String value) throws SQLException {
        PGobject object = new PGobject();
        object.setType(type);
        object.setValue(value);
        return object;
    }

    static void ask(Opened opened) {
        for (String column : COLUMNS) {
            opened.say("read " + column, () -> opened.one("SELECT " + column + " FROM things WHERE id = 1"));
        }
        Connection connection = opened.connection;
        opened.say("function of mood", () -> opened.one("SELECT fo(?::mood), ?::mood", "ok", "sad"));
        opened.say("function of a typed mood", () -> opened.one("SELECT fo(?)", object("mood", "ok")));
        opened.say("function of moods", () -> opened.one("SELECT fo(?)", connection.createArrayOf("mood", new String[] {"ok", "sad"})));
        // Another text each time, so that it is a new statement after each step.
        opened.say("a new statement", () -> opened.connection.prepareStatement("SELECT 1") == null ? null : fresh(opened));
        opened.say("function of place", () -> opened.one("SELECT fo(?)", object("place", "(1,2,b)")));
        opened.say("function of tags", () -> opened.one("SELECT fo(?)", object("hstore", "a=>1")));
        opened.say("moods", () -> opened.one("SELECT ?::mood[]", connection.createArrayOf("mood", new String[] {"ok", "sad"})));
        opened.say("find", () -> opened.one("SELECT id FROM things WHERE feeling = ? AND feelings = ?", "happy", connection.createArrayOf("mood", new String[] {"sad", "ok"})));
        opened.say("batch", () -> batch(opened));
        opened.say("write", () -> opened.one(
            "INSERT INTO written (client, feeling, feelings, spot, tags) VALUES ('pgjdbc', ?, ?, ?, ?) "
                + "ON CONFLICT (client) DO UPDATE SET feeling = excluded.feeling RETURNING feeling, feelings, spot, tags",
            "ok", connection.createArrayOf("mood", new String[] {"ok"}), object("place", "(7,8,w)"), object("hstore", "w=>x")));
    }

    static int counter = 0;

    static Object fresh(Opened opened) throws SQLException {
        counter++;
        try (PreparedStatement statement = opened.connection.prepareStatement("SELECT fo(?) /* " + counter + " */")) {
            statement.setArray(1, opened.connection.createArrayOf("mood", new String[] {"ok"}));
            try (ResultSet found = statement.executeQuery()) {
                found.next();
                return found.getString(1);
            }
        }
    }

    static Object batch(Opened opened) throws SQLException {
        PreparedStatement statement = opened.prepare(
            "INSERT INTO written (client, feeling, feelings) VALUES (?, ?, ?) ON CONFLICT (client) DO UPDATE SET feeling = excluded.feeling");
        for (String mood : new String[] {"sad", "ok", "happy"}) {
            statement.setString(1, "pgjdbc batch " + mood);
            statement.setObject(2, mood, Types.OTHER);
            statement.setArray(3, opened.connection.createArrayOf("mood", new String[] {mood}));
            statement.addBatch();
        }
        return Arrays.toString(statement.executeBatch());
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        System.setOut(new java.io.PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), true, "UTF-8"));
        List<Opened> all = new ArrayList<>();
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.trim().split(" ");
            if (words[0].equals("open")) {
                try {
                    all.addAll(open(words[1]));
                } catch (SQLException error) {
                    System.out.println("pgjdbc|" + words[1] + "/all|open|ERROR|\"" + quoted(error.toString()) + "\"");
                }
            } else if (words[0].equals("ask")) {
                all.forEach(Travel::ask);
            } else if (words[0].equals("end")) {
                break;
            }
            System.out.println("done");
        }
    }
}

//! Constants in stored expressions that PostgreSQL computes once in a connection's life.
//!
//! # Why
//! A typed constant was read when the expression was stored, so no setting affects it any more. Values
//! computed from constants are computed when a connection first needs the expression, if its functions are
//! immutable, and are kept with it. Some functions that PostgreSQL declares immutable read settings all the
//! same: conversions to text (`float8::text`), and some that take or return text (`AT TIME ZONE 'IST'`,
//! `quote_ident`). A user-defined function that is declared immutable may read any setting.
//!
//! The trees are in PostgreSQL's own format (`nodes/outfuncs.c`): `{KIND :field value :field (...)}`.

use std::collections::HashMap;

use crate::session::scan::{self, Effects};

/// The effects of a value that depends on the time, and so is right for no other client: as if the client had
/// settings of its own.
pub(super) const BY_TIME: Effects = Effects::BY_VALUES.with(Effects::VALUES);

/// What PostgreSQL does with a call that has only constants as arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Calls it at each execution.
    Varies,
    /// A built-in function that is computed once, or inlined into the expression.
    BuiltIn,
    /// A user-defined immutable function.
    Immutable,
    /// The same, in SQL: it may be inlined if not all of its arguments are constants.
    ImmutableSql,
    /// Another SQL function, which may be inlined.
    Sql,
}

/// The functions that are not built in and immutable, by OID.
#[derive(Debug, Default)]
pub(super) struct Classes(HashMap<u32, Class>);

impl Classes {
    /// Reads `12v 16385U`: OIDs, each with a letter.
    pub(super) fn read(&mut self, list: &str) {
        for entry in list.split_ascii_whitespace() {
            let (oid, class) = entry.split_at(entry.len() - 1);
            let class = match class {
                "U" => Class::Immutable,
                "S" => Class::ImmutableSql,
                "s" => Class::Sql,
                _ => Class::Varies,
            };
            if let Ok(oid) = oid.parse() {
                self.0.insert(oid, class);
            }
        }
    }

    fn of(&self, function: u32) -> Class {
        self.0.get(&function).copied().unwrap_or(Class::BuiltIn)
    }
}

/// What PostgreSQL computes from a tree's constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Computed {
    /// PostgreSQL's own code computes something, and may read settings.
    pub(super) by_own: bool,
    /// A user-defined immutable function computes something.
    pub(super) by_users: bool,
    /// An SQL function takes constants beside other arguments.
    pub(super) binds: bool,
    /// In an SQL function: it converts values or calls a user-defined immutable function, so a constant that
    /// it takes may be computed further.
    pub(super) goes_on: bool,
    /// A constant names a time: `day('today')`.
    has_moment: bool,
}

impl Computed {
    /// The result for a tree that is too long to be read.
    pub(super) const ANY: Computed =
        Computed { by_own: true, by_users: true, binds: true, goes_on: true, has_moment: false };

    /// The effects of what a connection keeps of it.
    pub(super) fn effects(self) -> Effects {
        match (self.by_own, self.by_users) {
            (_, true) if self.has_moment => BY_TIME,
            (false, false) => Effects::NONE,
            _ => Effects::BY_VALUES,
        }
    }
}

/// Built-in functions that only cut and join texts: `rtrim1`, `bpchar`, `varchar`, `textcat`.
const PLAIN_TEXT: [u32; 4] = [401, 668, 669, 1258];
/// text, varchar, bpchar, name, unknown, cstring, and the arrays of the first three.
const TEXT_TYPES: [u32; 9] = [25, 1043, 1042, 19, 705, 2275, 1009, 1015, 1014];
/// OIDs of user-defined types start here.
const FIRST_TYPE: u32 = 16_384;

fn is_text(kind: u32) -> bool {
    TEXT_TYPES.contains(&kind) || kind >= FIRST_TYPE
}

/// Node kinds with a value that is known only when the statement runs.
const VARIABLES: [&str; 9] = [
    "VAR",
    "PARAM",
    "COERCETODOMAINVALUE",
    "SQLVALUEFUNCTION",
    "AGGREF",
    "WINDOWFUNC",
    "SUBLINK",
    "NEXTVALUEEXPR",
    "CURRENTOFEXPR",
];

#[derive(Debug, Default)]
struct Node<'t> {
    kind: &'t str,
    function: u32,
    /// The type of its value.
    result: u32,
    /// The bytes of a constant.
    value: Vec<u8>,
    /// A part of it is known only when the statement runs.
    varies: bool,
    /// A part of it is an element of the enclosing array, or the value of the enclosing CASE.
    is_of_element: bool,
    /// A part of it that depends on such an element converts values.
    converts: bool,
    takes_text: bool,
    takes_constant: bool,
}

impl Node<'_> {
    fn is_constant(&self) -> bool {
        !self.varies && !self.is_of_element
    }

    /// Reads the value of a field, or a part of it.
    fn field(&mut self, name: &str, value: &str) {
        match name {
            ":funcid" | ":opfuncid" => self.function = value.parse().unwrap_or_default(),
            ":funcresulttype" | ":opresulttype" | ":resulttype" | ":consttype" | ":array_typeid"
            | ":casetype" | ":coalescetype" | ":minmaxtype" => {
                self.result = value.parse().unwrap_or_default();
            }
            ":constvalue" => {
                // `10 [ 40 0 0 0 48 ]`: the first number is the number of bytes.
                self.value.extend(value.parse::<i32>().ok().map(|byte| byte as u8));
            }
            _ => {}
        }
    }

    /// Evaluates the node when it is complete.
    fn close(&mut self, classes: &Classes, computed: &mut Computed) {
        match self.kind {
            "CONST" => {
                let text = self.value.get(5..).unwrap_or_default();
                computed.has_moment |= is_text(self.result) && scan::is_moment(text);
            }
            "CASETESTEXPR" => self.is_of_element = true,
            "COERCEVIAIO" => {
                computed.goes_on = true;
                self.converted(computed);
            }
            "FUNCEXPR" | "OPEXPR" | "SCALARARRAYOPEXPR" | "DISTINCTEXPR" | "NULLIFEXPR" => {
                self.call(classes, computed);
            }
            "ARRAYCOERCEEXPR" | "CASEEXPR" | "CASE" => {
                self.is_of_element = false;
                if std::mem::take(&mut self.converts) {
                    self.converted(computed);
                }
            }
            kind => self.varies |= VARIABLES.contains(&kind),
        }
    }

    fn call(&mut self, classes: &Classes, computed: &mut Computed) {
        let class = classes.of(self.function);
        let is_users = matches!(class, Class::Immutable | Class::ImmutableSql);
        computed.goes_on |= is_users;
        match class {
            Class::Varies => self.varies = true,
            Class::BuiltIn => {
                let is_plain = PLAIN_TEXT.contains(&self.function);
                if !is_plain && (self.takes_text || is_text(self.result)) {
                    self.converted(computed);
                }
            }
            // Also for elements of an array, which may be constant.
            _ if is_users && !self.varies => computed.by_users = true,
            Class::ImmutableSql | Class::Sql => computed.binds |= self.takes_constant,
            Class::Immutable => {}
        }
    }

    /// Records that PostgreSQL's own code converts a value.
    fn converted(&mut self, computed: &mut Computed) {
        if self.is_constant() {
            computed.by_own = true;
        } else if !self.varies {
            self.converts = true;
        }
    }

    /// Adds the relevant properties of an inner node.
    fn take(&mut self, inner: &Node<'_>) {
        self.varies |= inner.varies;
        self.is_of_element |= inner.is_of_element;
        self.converts |= inner.converts;
        self.takes_text |= is_text(inner.result);
        self.takes_constant |= inner.is_constant();
    }
}

/// What PostgreSQL computes from the constants in one or several trees.
pub(super) fn computed(tree: &str, classes: &Classes) -> Computed {
    let mut found = Computed::default();
    let mut open: Vec<Node<'_>> = vec![Node::default()];
    let mut field = "";
    for word in words(tree) {
        let Some(node) = open.last_mut() else { break };
        match word {
            "{" => {
                open.push(Node::default());
                field = "";
            }
            "}" => {
                let Some(mut inner) = open.pop() else { break };
                inner.close(classes, &mut found);
                let Some(outer) = open.last_mut() else { break };
                outer.take(&inner);
                field = "";
            }
            "(" | ")" | "[" | "]" => {}
            word if word.starts_with(':') => field = word,
            word if node.kind.is_empty() => node.kind = word,
            word => node.field(field, word),
        }
    }
    found
}

/// Words and brackets; a backslash makes the next character a part of a word.
fn words(tree: &str) -> impl Iterator<Item = &str> {
    let mut rest = tree;
    std::iter::from_fn(move || {
        rest = rest.trim_ascii_start();
        let first = rest.bytes().next()?;
        let mut end = 0;
        if b"{}()[]".contains(&first) {
            end = 1;
        } else {
            let bytes = rest.as_bytes();
            while let Some(&byte) = bytes.get(end) {
                match byte {
                    b'\\' => end += 1,
                    b'{' | b'}' | b'(' | b')' | b'[' | b']' => break,
                    byte if byte.is_ascii_whitespace() => break,
                    _ => {}
                }
                end += 1;
            }
            // A backslash may precede a character of several bytes.
            end = end.min(bytes.len());
            while !rest.is_char_boundary(end) {
                end += 1;
            }
        }
        let (word, behind) = rest.split_at(end);
        rest = behind;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `day` is 16386, immutable; `within` is 16387, in SQL; `now` varies.
    fn found(tree: &str) -> Computed {
        let mut classes = Classes::default();
        classes.read("1299v 16386U 16387S");
        computed(tree, &classes)
    }

    const VALUE: &str = "{COERCETODOMAINVALUE :typeId 25 :typeMod -1 :collation 100 :location 135}";
    const TEXT: &str = "{CONST :consttype 25 :consttypmod -1 :constcollid 100 :constlen -1 :constbyval false \
        :constisnull false :location 1 :constvalue 10 [ 40 0 0 0 48 49 47 48 50 47 ]}";
    const TODAY: &str =
        "{CONST :consttype 25 :constisnull false :constvalue 9 [ 36 0 0 0 116 111 100 97 121 ]}";
    const NUMBER: &str =
        "{CONST :consttype 701 :constlen 8 :constisnull false :constvalue 8 [ -102 -103 0 0 0 0 -71 63 ]}";

    fn call(function: u32, result: u32, args: &[&str]) -> String {
        format!(
            "{{FUNCEXPR :funcid {function} :funcresulttype {result} :funcretset false :args ({})}}",
            args.join(" ")
        )
    }

    fn as_text(inner: &str) -> String {
        format!("{{COERCEVIAIO :arg {inner} :resulttype 25 :resultcollid 100 :coerceformat 1 :location 174}}")
    }

    #[test]
    fn what_is_computed_of_constants_is_told_from_what_is_computed_of_the_value() {
        let by_own = |tree: &str| found(tree).by_own;
        assert!(by_own(&as_text(&call(218, 701, &[NUMBER, NUMBER]))));
        assert!(!by_own(&as_text(&call(218, 701, &[NUMBER, VALUE]))));
        assert!(by_own(&call(1159, 1114, &[TEXT, NUMBER])), "AT TIME ZONE");
        assert!(!by_own(&call(1159, 1114, &[TEXT, VALUE])));
        assert!(!by_own(&call(1740, 1700, &[NUMBER])), "0::numeric");
        assert!(!by_own(&call(669, 1043, &[TEXT, NUMBER])), "varchar(9)");
        assert!(!by_own(&as_text(&call(1299, 1184, &[]))), "now()");
        let by_users = |tree: &str| found(tree).by_users;
        assert!(by_users(&call(16386, 1082, &[&call(1258, 25, &[TEXT, TEXT])])));
        assert!(by_users(&call(67, 16, &[VALUE, &call(16386, 1082, &[])])));
        assert!(!by_users(&call(16386, 1082, &[VALUE, TEXT])));
        assert!(found(&call(16387, 16, &[VALUE, TEXT])).binds);
        assert!(!found(&call(16387, 16, &[VALUE, &call(218, 701, &[VALUE, NUMBER])])).binds);
    }

    #[test]
    fn elements_of_a_constant_array_are_constants_and_those_of_the_value_are_not() {
        let element = as_text("{CASETESTEXPR :typeId 701 :typeMod -1 :collation 0}");
        let array = |of: &str| format!("{{ARRAYCOERCEEXPR :arg {of} :elemexpr {element} :resulttype 1009}}");
        assert!(found(&array(NUMBER)).by_own);
        assert!(!found(&array(VALUE)).by_own);
    }

    #[test]
    fn a_moment_is_right_for_no_other_client() {
        assert_eq!(found(&call(16386, 1082, &[TODAY])).effects(), BY_TIME);
        assert_eq!(found(&call(16386, 1082, &[TEXT])).effects(), Effects::BY_VALUES);
        assert_eq!(found(&call(67, 16, &[VALUE, TODAY])).effects(), Effects::NONE);
    }

    #[test]
    fn what_is_no_tree_is_read_to_its_end() {
        for odd in ["", "}", "{", "{A :b \\", "{A :b \\{ \\é }", "{ } } {", "<>", ":é"] {
            assert_eq!(found(odd).effects(), Effects::NONE, "{odd}");
        }
    }
}

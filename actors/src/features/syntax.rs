//! CEL expressions as a tree: parsed once, with what could run away refused.
//!
//! Pure. The language is CEL (cel.dev) without time stamps, regular expressions and nested macros over lists; its numbers
//! are those of JSON, doubles. Evaluation is elsewhere: `predicate` for what is common, `interpreter` for the rest.

use std::{ops::Range, thread};

use cel::{
    IdedExpr,
    common::{
        ast::{Expr, LiteralValue, SourceInfo, operators as op},
        types::CelDouble,
    },
    parser::Parser,
};

use super::expression::{EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX};

/// Functions that may be called: none of them takes longer than its arguments are long.
const FUNCTIONS: [&str; 10] =
    ["size", "contains", "startsWith", "endsWith", "int", "uint", "double", "string", "bool", "type"];
/// What operators and macros are called in the tree.
const OPERATORS: [&str; 18] = [
    op::CONDITIONAL,
    op::LOGICAL_AND,
    op::LOGICAL_OR,
    op::LOGICAL_NOT,
    op::SUBSTRACT,
    op::ADD,
    op::MULTIPLY,
    op::DIVIDE,
    op::MODULO,
    op::EQUALS,
    op::NOT_EQUALS,
    op::GREATER_EQUALS,
    op::LESS_EQUALS,
    op::GREATER,
    op::LESS,
    op::NEGATE,
    op::INDEX,
    op::IN,
];

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) text: String,
    pub(super) help: String,
    /// Bytes of the expression.
    pub(super) at: Option<Range<usize>>,
}

impl Wrong {
    pub(super) fn new(text: impl Into<String>, help: impl Into<String>, at: Option<Range<usize>>) -> Self {
        Self { text: text.into(), help: help.into(), at }
    }
}

/// An expression that was parsed and is within the limits.
pub(super) struct Parsed {
    pub(super) expr: IdedExpr,
    /// Names that it takes from outside, each once.
    pub(super) names: Vec<Name>,
    places: Places,
}

/// A name in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) name: String,
    pub(super) at: Option<Range<usize>>,
}

/// Where nodes are in the text.
pub(super) struct Places {
    info: SourceInfo,
    text: String,
}

/// Stack of the parser, in bytes. A bracket takes 130 KB of it in an unoptimised program: of the 2 MiB that threads have, the
/// limit on nesting was beyond the end, and a stack overflow ends the process.
const PARSER_STACK_BYTES: usize = 32 << 20;

/// Parses `text` and checks its limits.
pub(super) fn parse(text: &str) -> Result<Parsed, Wrong> {
    if text.trim().is_empty() {
        return Err(Wrong::new("is empty", "write an expression, or remove the line", None));
    }
    if text.len() > EXPRESSION_BYTES_MAX {
        let help = format!("use at most {EXPRESSION_BYTES_MAX} bytes");
        return Err(Wrong::new("is too long", help, None));
    }
    if let Some(at) = too_deep(text) {
        return Err(Wrong::new("is nested too deeply", "write it in another way", Some(at..at + 1)));
    }
    // A thread of its own, for its stack; a panic ends nothing else.
    let parsed = thread::scope(|scope| {
        let parser = Parser::new().max_recursion_depth(EXPRESSION_DEPTH_MAX);
        let started = thread::Builder::new()
            .stack_size(PARSER_STACK_BYTES)
            .spawn_scoped(scope, move || parser.parse_with_source_info(text));
        started.ok().and_then(|thread| thread.join().ok())
    });
    let (expr, info) = match parsed {
        Some(Ok(parsed)) => parsed,
        Some(Err(errors)) => return Err(first_error(text, &errors)),
        None => return Err(Wrong::new("cannot be parsed", "write it in another way", None)),
    };
    let mut parsed = Parsed { expr, names: Vec::new(), places: Places { info, text: text.to_owned() } };
    let mut walk = Walk { places: &parsed.places, bound: Vec::new(), names: Vec::new() };
    walk.check(&parsed.expr, 0)?;
    parsed.names = walk.names;
    doubles(&mut parsed.expr);
    Ok(parsed)
}

/// Where one bracket too many opens. Brackets in texts count too: nobody has so many of them open there.
fn too_deep(text: &str) -> Option<usize> {
    let mut open = 0u16;
    text.bytes().position(|byte| {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > EXPRESSION_DEPTH_MAX
    })
}

fn first_error(text: &str, errors: &cel::ParseErrors) -> Wrong {
    let help = "the language is CEL, see https://cel.dev: event == 'page_view' && price > 10";
    let Some(error) = errors.errors.first() else { return Wrong::new("cannot be parsed", help, None) };
    let (line, column) = (error.pos.0.max(1) as usize, error.pos.1.max(1) as usize);
    let before: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    let at = before + rest.char_indices().nth(column - 1).map_or(rest.len(), |(at, _)| at);
    let message = error.msg.lines().next().unwrap_or_default().trim().to_owned();
    Wrong::new(format!("is not CEL: {message}"), help, Some(at..(at + 1).min(text.len()).max(at)))
}

impl Parsed {
    pub(super) fn at(&self, expr: &IdedExpr) -> Option<Range<usize>> {
        self.places.of(expr)
    }
}

impl Places {
    /// Where an expression is, from its leftmost part.
    fn of(&self, expr: &IdedExpr) -> Option<Range<usize>> {
        let leftmost = match &expr.expr {
            Expr::Select(select) => &select.operand,
            Expr::Call(call) => match (&call.target, call.args.first()) {
                (Some(target), _) => target,
                (None, Some(first)) if OPERATORS.contains(&call.func_name.as_str()) && call.args.len() > 1 => first,
                _ => return self.bytes(expr.id),
            },
            _ => return self.bytes(expr.id),
        };
        let (start, own) = (self.of(leftmost), self.bytes(expr.id));
        match (start, own) {
            (Some(start), Some(own)) => Some(start.start.min(own.start)..own.end.max(start.end)),
            (start, own) => start.or(own),
        }
    }

    fn bytes(&self, id: u64) -> Option<Range<usize>> {
        // The parser counts bytes, to the first one of the last token's last character.
        let (start, stop) = self.info.offset_for(id)?;
        let start = self.text.floor_char_boundary(start as usize);
        Some(start..self.text.ceil_char_boundary(stop as usize + 1).max(start))
    }
}

struct Walk<'a> {
    places: &'a Places,
    /// Variables of the macro that the walk is in.
    bound: Vec<&'a str>,
    names: Vec<Name>,
}

impl<'a> Walk<'a> {
    fn check(&mut self, expr: &'a IdedExpr, depth: u16) -> Result<(), Wrong> {
        let wrong = |text: String, help: &str| Err(Wrong::new(text, help, self.places.of(expr)));
        if depth > EXPRESSION_DEPTH_MAX {
            return wrong("is nested too deeply".to_owned(), "write it in another way");
        }
        let depth = depth + 1;
        match &expr.expr {
            Expr::Literal(LiteralValue::Bytes(_)) => {
                wrong("events have no bytes".to_owned(), "write a text: 'page_view'")
            }
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => {
                if name.starts_with('.') {
                    return wrong(format!("{name} begins with a dot"), "remove the dot");
                }
                if !self.bound.contains(&name.as_str()) && self.names.iter().all(|known| known.name != *name) {
                    self.names.push(Name { name: name.clone(), at: self.places.of(expr) });
                }
                Ok(())
            }
            Expr::Select(select) => self.check(&select.operand, depth),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.check(element, depth)),
            Expr::Call(call) => {
                let name = call.func_name.as_str();
                let known = FUNCTIONS.contains(&name) || OPERATORS.contains(&name);
                // The helper of macros cannot be written, and is only there in one.
                let helper = name == op::NOT_STRICTLY_FALSE && !self.bound.is_empty();
                if !known && !helper {
                    let help =
                        format!("known functions: {}, has, all, exists, exists_one, map, filter", FUNCTIONS.join(", "));
                    return wrong(format!("there is no function {name}"), &help);
                }
                call.target.iter().try_for_each(|target| self.check(target, depth))?;
                call.args.iter().try_for_each(|arg| self.check(arg, depth))
            }
            Expr::Comprehension(inner) => {
                if !self.bound.is_empty() {
                    return wrong("a macro over a list stands inside of another".to_owned(), "use one of them");
                }
                self.check(&inner.iter_range, depth)?;
                self.check(&inner.accu_init, depth)?;
                self.bound = vec![&inner.iter_var, &inner.accu_var];
                self.bound.extend(inner.iter_var2.as_deref());
                let parts = [&inner.loop_cond, &inner.loop_step, &inner.result];
                let checked = parts.into_iter().try_for_each(|part| self.check(part, depth));
                self.bound.clear();
                checked
            }
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                wrong("maps and structs cannot be made here".to_owned(), "use texts, numbers and lists")
            }
        }
    }
}

/// Whole numbers beside arithmetic become doubles, because the numbers of events are doubles and CEL does not mix them.
/// Comparisons need no such help.
fn doubles(expr: &mut IdedExpr) {
    match &mut expr.expr {
        Expr::Select(select) => doubles(&mut select.operand),
        Expr::List(list) => list.elements.iter_mut().for_each(doubles),
        Expr::Comprehension(inner) => {
            let inner = inner.as_mut();
            [&mut inner.iter_range, &mut inner.loop_step, &mut inner.result].into_iter().for_each(doubles);
        }
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| doubles(target));
            call.args.iter_mut().for_each(doubles);
            if matches!(call.func_name.as_str(), op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE)
                && let [left, right] = call.args.as_mut_slice()
                && !is_whole(left)
                && !is_whole(right)
            {
                [left, right].into_iter().for_each(literal_to_double);
            }
        }
        _ => {}
    }
}

/// Whether the value is whole by its nature: what counts something, and what a macro counts with.
fn is_whole(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Call(call) => match call.func_name.as_str() {
            "size" | "int" | "uint" | op::MODULO => true,
            op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::NEGATE => call.args.iter().any(is_whole),
            op::CONDITIONAL => call.args.iter().skip(1).any(is_whole),
            _ => false,
        },
        Expr::Ident(name) => name.starts_with(['@', '_']) && name.len() > 1 && name != "_",
        _ => false,
    }
}

fn literal_to_double(expr: &mut IdedExpr) {
    if let Expr::Literal(literal) = &mut expr.expr {
        let double = match literal {
            LiteralValue::Int(int) => *int.inner() as f64,
            LiteralValue::UInt(int) => *int.inner() as f64,
            _ => return,
        };
        *literal = LiteralValue::Double(CelDouble::from(double));
    }
}

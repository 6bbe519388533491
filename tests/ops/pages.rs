//! The questions to Prometheus that the pages for operators give: in indented lines, and between back quotes.

use crate::support::envoy::read;

/// The pages that have some.
const PAGES: [&str; 2] = ["docs/operations.md", "docs/runbook.md"];

/// How a question begins.
const STARTS: [&str; 6] = ["count by", "envoy_", "rate(", "sum by", "sum(", "up{"];

/// A page, and a question on it.
pub struct Question {
    pub page: &'static str,
    pub expression: String,
}

impl Question {
    /// Returns the question as this Prometheus can answer it: over `range`, about its own job and the cluster of its Envoy.
    pub fn query(&self, range: &str) -> String {
        let mut query = String::new();
        let mut rest = self.expression.as_str();
        while let Some((before, after)) = rest.split_once('[') {
            let (_, after) = after.split_once(']').expect("a range ends");
            query += &format!("{before}[{range}]");
            rest = after;
        }
        query += rest;
        query
            .replace(r#"job="...""#, r#"job="matrix-edge-auth""#)
            .replace(r#""mas-introspection""#, r#""mas""#)
    }
}

fn is_question(text: &str) -> bool {
    // `envoy_...` alone is a name.
    STARTS.iter().any(|start| text.starts_with(start)) && text.contains(['(', '{'])
}

/// All questions of the pages.
pub fn questions() -> Vec<Question> {
    let of_page = |page: &'static str| {
        let text = read(page);
        let quoted = text.split('`').skip(1).step_by(2);
        let quoted = quoted.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        let mut expressions: Vec<String> = quoted.filter(|text| is_question(text)).collect();
        // What is indented further goes on with the line before it.
        let mut indented: Vec<String> = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("    ")) {
            match indented.last_mut().filter(|_| line.starts_with(' ')) {
                Some(last) => last.push_str(line),
                None => indented.push(line.to_owned()),
            }
        }
        expressions.extend(indented.into_iter().filter(|line| is_question(line)));
        let of_page = expressions.into_iter();
        of_page.map(move |expression| Question { page, expression })
    };
    PAGES.into_iter().flat_map(of_page).collect()
}

#[test]
fn the_questions_of_the_pages_are_found() {
    let questions = questions();
    let of = |page: &str| questions.iter().filter(|it| it.page == page).count();
    assert_eq!((of(PAGES[0]), of(PAGES[1])), (6, 3));
    let ratio = questions
        .iter()
        .find(|it| it.expression.starts_with("sum by (instance, verdict)"));
    let ratio = ratio.expect("the share of each verdict").query("9s");
    assert_eq!(
        ratio,
        "sum by (instance, verdict) (rate(matrix_edge_auth_requests_total[9s]))  / on (instance) group_left () \
         sum by (instance) (rate(matrix_edge_auth_requests_total[9s]))"
    );
}

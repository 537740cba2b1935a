//! Judges that nobody here wrote.

use std::path::PathBuf;
use std::process::Stdio;

use crate::support::*;

/// `h2spec` on the search path or where Go installs programs.
fn h2spec() -> PathBuf {
    let home = std::env::var_os("GOPATH").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join("go"))
    });
    let installed = home.map(|home| home.join("bin/h2spec")).filter(|path| path.is_file());
    let searched = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|folder| folder.join("h2spec")).find(|path| path.is_file()));
    installed.or(searched).expect(
        "h2spec is missing; `go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible` installs it",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn h2spec_passes() {
    let app = application(|request| async move {
        // The body is read, so that flow control has something to do.
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        answer(200, "conformance")
    })
    .await;
    let (proxy, front) = Front::to(app.address).manager("codec_type: HTTP2,").start().await;
    let output = tokio::process::Command::new(h2spec())
        .args(["-h", "127.0.0.1", "-p", &front.port().to_string(), "-o", "5", "-S"])
        .stdin(Stdio::null())
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(300), output).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = text.lines().rev().find(|line| line.contains(" tests, ")).unwrap_or_else(|| panic!("{text}"));
    let failures = text.find("Failures:").map_or("", |at| &text[at..]);
    assert!(summary.starts_with("146 tests, 146 passed"), "{summary}\n{failures}");
    within(proxy.stop()).await;
}

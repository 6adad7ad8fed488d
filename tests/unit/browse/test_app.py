"""The browser's pages over real stores: what they show, where they lead, what they refuse, and hostile texts."""

import io
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import schemathesis
from hostile_run import MARK, SCRIPT, TEXTS, make_hostile_run
from hypothesis import HealthCheck, given, settings
from made_run import made_config, make_run, problems_of
from schemathesis.checks import content_type_conformance, not_a_server_error, status_code_conformance
from starlette.testclient import TestClient

from deployments.s3 import BUCKET, S3Server
from fem_core.audit.changed import mark, remember
from fem_core.audit.lineage import find
from fem_core.browse import figures, side_by_side
from fem_core.browse.alone import report
from fem_core.browse.app import application, web
from fem_core.browse.library import Library
from fem_core.browse.links import Links
from fem_core.browse.remembered import Shared
from fem_core.browse.security import HEADERS, check_token
from fem_core.errors import FemError, StoreAway
from fem_core.evaluate.paired import mcnemar
from fem_core.schemas import ATTEMPTS
from fem_core.store import collect, deletion, fork
from fem_core.store.store import Store
from tasks import prepare, sample, step

HOME = "http://127.0.0.1:8765"
TOKEN = "a-token-of-some-length"
SIGN_IN = "/sign-in"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """Two runs to compare, one of given rationales, a fork, and a hostile one."""
    folder = tmp_path_factory.mktemp("browse")
    store = Store.open(str(folder / "store"))
    make_run(store)
    asked = {"draws": 2, "bound": {"problems": 6, "draws": 2}}
    make_run(store, made_config("other", seed=3, train={"learning_rate": 3e-5}, evaluate=asked), wrong=7)
    make_run(store, made_config("given", scheme={"name": "human"}))
    record = store.existing_run("made")
    child = record.model_copy(update={"name": "child", "parent": fork.begin(store, "made", 1).dump()})
    fork.inherit(store, store.create_run(child))
    make_hostile_run(store)
    found = Library(store.url, folder / "cache")
    yield found
    found.close()


@pytest.fixture
def client(library: Library) -> TestClient:
    return TestClient(application(library), base_url=HOME)


class Page(HTMLParser):
    """Tags, links and ids of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @property
    def links(self) -> list[str]:
        return [str(attributes["href"]) for tag, attributes in self.tags if tag == "a"]


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_every_link_from_the_start_leads_to_a_page(client: TestClient) -> None:
    todo, seen = ["/"], set[str]()
    while todo:
        address = todo.pop()
        if address in seen:
            continue
        seen.add(address)
        answer = client.get(address)
        assert answer.status_code == 200, address
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, f"{name} of {address}"
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        page = Page(answer.text)
        for tag, attributes in page.tags:
            assert "style" not in attributes and not any(name.startswith("on") for name in attributes), address
            for name in ("src", "href", "action"):
                assert (attributes.get(name) or "/").startswith(("/", "#")), f"{tag} of {address} leads elsewhere"
            assert tag != "script" or attributes == {"src": "/static/browse.js", "defer": None}
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids)), f"an id stands twice on {address}"
        todo += [link for link in page.links if not link.startswith("#") and "old=" not in link]
    kinds = ("/runs/made", "/iterations/2/attempts", "/problems/", "/artifacts/", "format=parquet", "kind=predictions")
    assert all(any(kind in address for address in seen) for kind in kinds)


def test_the_runs_are_filtered_sorted_and_compared(client: TestClient) -> None:
    names = [re.findall(r'name="run" value="(\w+)"', client.get(f"/runs?{query}").text) for query in ("", "sort=-name")]
    assert names == [["child", "given", "hostile", "made", "other"], ["other", "made", "hostile", "given", "child"]]
    assert re.findall(r'name="run" value="(\w+)"', client.get("/runs?text=oth&state=finished").text) == ["other"]
    assert "No run is like this" in client.get("/runs?scheme=pps").text

    assert "train.learning_rate" not in text(client.get("/compare?run=made&run=given").text)
    page = text(client.get("/compare?run=made&run=other").text)
    assert "train.learning_rate" in page and "3e-05" in page and "sample.temperature" not in page
    assert "made → other 2 4" in page, "the last iteration that both have scored, and its problems"
    three = text(client.get("/compare?run=made&run=other&run=hostile").text)
    assert "made → hostile they share no test problem" in three
    assert client.get("/compare?run=made").status_code == 404
    assert client.get("/compare?" + "&".join(f"run=r{n}" for n in range(9))).status_code == 422


def test_a_comparison_names_base_models_and_sizes_that_are_in_no_digest(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    for name in ("one", "two"):
        make_run(store, made_config(name, model={"source": f"models/{name}"}), iterations=1)
    config = made_config("three", train={"micro_batch_size": 2})
    make_run(store, config, iterations=1, make=lambda numbers: problems_of(range(numbers.start, numbers.stop - 1)))
    library = Library(store.url, tmp_path / "cache")
    client = TestClient(application(library), base_url=HOME)
    page = text(client.get("/compare?run=one&run=two").text)
    assert (
        "model.source &#34;models/one&#34; &#34;models/two&#34;" in page
        and "store" not in page.partition("Configuration")[2]
    )
    assert "models/one" in client.get("/runs/one").text, "the run says it, too"
    page = text(client.get("/compare?run=one&run=three").text)
    assert "train.micro_batch_size 8 2" in page and "problems/train (digest)" in page
    library.close()


def test_the_paired_test_is_that_of_the_shared_problems(library: Library) -> None:
    pages = [library.run(name) for name in ("made", "other")]
    (pair,) = side_by_side.paired(library.store, pages)
    right = [
        {row["problem_id"] for row in library.store.read_table(found).to_pylist() if row["verdict"] == "accepted"}
        for name in ("made", "other")
        if (found := library.artifact(f"{name}@2/predictions").manifest)
    ]
    only = len(right[0] - right[1]), len(right[1] - right[0])
    assert (pair.only_first, pair.only_second) == only and sum(only) > 0
    assert pair.difference == (only[1] - only[0]) / pair.problems
    assert pair.low <= pair.difference <= pair.high

    problems = [f"{n}" for n in range(20)]
    first, second = ({one: int(one) >= least for one in problems} for least in (12, 4))
    clear = side_by_side._pair("a", "b", 1, first, second | {"elsewhere": True})
    assert (clear.problems, clear.only_first, clear.only_second) == (20, 0, 8)
    assert clear.p == mcnemar(0, 8) and clear.difference == 0.4 and clear.low > 0


def test_a_run_shows_figures_verdicts_lineage_and_configuration(client: TestClient) -> None:
    html = client.get("/runs/made").text
    page = Page(html)
    assert "/runs/made/iterations/1/attempts?verdict=wrong_answer" in page.links
    assert "/artifacts/runs/made/iteration=002/checkpoint" in page.links
    assert "Iteration 2 scores 0.500 on 4 held-out problems" in html and "problems_per_part: 4" in html
    assert "calibration error" not in html
    asked = client.get("/runs/other").text
    assert "calibration error" in asked and "95 % of change" in asked
    assert "the bound falls" not in asked, "6 problems are too few to say so"
    assert "/artifacts/runs/other/iteration=002/bound" in Page(asked).links


def test_attempts_are_filtered_searched_and_paged(client: TestClient) -> None:
    place = "/runs/made/iterations/1/attempts"
    everything = client.get(place).text
    assert "13 attempts" in text(everything) and everything.count("<article") == 13
    assert "accepted (10)" in everything and "wrong answer (3)" in everything
    wrong = client.get(f"{place}?verdict=wrong_answer&min_length=&sort=-position").text
    assert "3 attempts" in text(wrong) and "Dropped: answered" in text(wrong)
    assert "<mark>gives</mark> the <mark>sum</mark>" in client.get(f"{place}?text=SUM+gives").text
    assert "None is like this" in client.get(f"{place}?text=elephant").text
    hinted = client.get(f"{place}?prompt_kind=hinted").text
    assert hinted.count('<mark class="hint" title="the hint">') == 3, "y* once in each prompt"
    assert 'class="hint"' not in client.get(f"{place}?prompt_kind=plain").text
    for query in ("min_length=x", "page=0", "page=x", "min_leak=nan", "kind=checkpoint", f"text={'x' * 501}"):
        answer = client.get(f"{place}?{query}")
        assert answer.status_code == 422 and "This cannot be asked" in answer.text, query
    for query in ("sort=nonsense", "annotation=fine"):
        assert client.get(f"{place}?{query}").status_code == 422
    assert "1 attempt. Take" in text(client.get(f"{place}?label=7").text)
    after = client.get(f"{place}?page=9&verdict=accepted").text
    assert "There is no such page." in after and f"{place}?verdict=accepted&amp;page=1" in after
    assert "Predictions of iteration 1" in client.get(f"{place}?kind=predictions").text
    for method, path in (("DELETE", "/runs"), ("PUT", place)):
        answer = client.request(method, path, headers={"origin": HOME, "content-length": "0"})
        assert answer.status_code == 405 and "Method Not Allowed. Start from the runs." in answer.text


def test_the_export_is_what_the_filter_shows(client: TestClient) -> None:
    place = "/runs/made/iterations/1/export?verdict=wrong_answer"
    table = pq.read_table(io.BytesIO(client.get(f"{place}&format=parquet").content))
    answer = client.get(f"{place}&format=jsonl")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert rows == table.to_pylist() and [row["verdict"] for row in rows] == ["wrong_answer"] * 3
    assert 'filename="made-1-attempts.jsonl"' in answer.headers["content-disposition"]
    nothing = client.get("/runs/made/iterations/1/export?verdict=none").content
    assert pq.read_table(io.BytesIO(nothing)).schema == table.schema, "no rows, and the same columns"
    assert client.get("/runs/made/iterations/9/export").status_code == 404


def test_a_problem_through_time_marks_what_has_changed(client: TestClient, library: Library) -> None:
    row = next(one for one in library.attempts("made", 1).rows if one.verdict == "wrong_answer")
    page = client.get(f"/runs/made/problems/{row.problem_id}").text
    assert "First solved in iteration 1, by a hinted prompt" in page
    assert "<del>1</del>" in page and "<ins>2</ins>" in page, "each text names its iteration"
    swapped = client.get(f"/runs/made/problems/{row.problem_id}?old=2.attempts.1&new=1.attempts.1").text
    assert "<del>2</del>" in swapped and "<ins>1</ins>" in swapped
    place = f"/runs/made/problems/{row.problem_id}"
    assert [client.get(f"{place}?old={old}").status_code for old in ("3.attempts.0", "1.made.0", "1")] == [
        404,
        422,
        422,
    ]


def test_a_problem_of_many_attempts_says_when_it_was_solved_and_shows_each(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, made_config(iterations=1, filter={"min_rationale_words": 50}))
    made = made_config("many")
    store.create_run(prepare.run_record("many", made))
    train = store.manifest("runs/made/problems/train")
    drawn = store.manifest("runs/made/iteration=001/attempts")
    assert train is not None and drawn is not None
    row = store.read_table(drawn).to_pylist()[0]
    table = pa.Table.from_pylist([row | {"attempt": n, "text": f"draw {n}"} for n in range(300)], schema=ATTEMPTS)
    todo = sample.work("many", made, 1, train, train)
    file = store.write_table(todo.artifact, "part-00000.parquet", table, todo.key)
    store.commit(todo.manifest([file], step.now(), stats={"draws": 300, "completion_tokens": 3600}))
    library = Library(store.url, tmp_path / "cache")
    client = TestClient(application(library), base_url=HOME)
    assert "draw 299" in client.get(f"/runs/many/iterations/1/attempts/{row['problem_id']}/299").text
    assert library.annotate("many", f"1.{row['problem_id']}.299", "good", "", "A. Reader").attempt == 299

    page = client.get(f"/runs/made/problems/{row['problem_id']}").text
    assert "First solved in iteration 1, by a plain prompt, and dropped as too short; none was kept so far." in page
    library.close()


def test_an_artifact_says_what_it_is_and_gives_code_that_reads_it(client: TestClient, library: Library) -> None:
    manifest = library.artifact("made@1/attempts").manifest
    page = client.get("/artifacts/made@1/attempts").text
    assert client.get(f"/artifacts/{manifest.digest}").text == page, "a digest names it as well"
    assert "13 rows in 3 files" in page and "/artifacts/runs/made/iteration=001/verdicts" in page
    blocks = [
        re.sub(r"&#39;", "'", block).replace("&#34;", '"')
        for block in re.findall(r"<pre data-copy>(.*?)</pre>", page, re.S)
    ]
    duckdb, arrow = blocks[0], blocks[1]
    for code, said in ((duckdb, "problem_id"), (arrow, "13 ['problem_id'")):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert said in done.stdout, done.stderr

    assert "The file has the SHA-256" in client.get("/artifacts/made@2/rationales?check=true").text
    for ref in ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "runs/made/run.json", "/etc/passwd", "runs/../secret/x"):
        assert client.get(f"/artifacts/{ref}").status_code == 404, ref


def test_what_a_fork_refers_to_is_linked_in_its_lineage(library: Library) -> None:
    drawn = str(figures.lineage(library.run("child").artifacts, Links()))
    assert drawn.count('class="arrow"') == 3, "attempts to verdicts and rationales, and these to the checkpoint"


def test_an_artifact_says_what_the_audit_knows_and_which_input_is_another_now(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, iterations=1)
    library = Library(store.url, tmp_path / "cache")
    client = TestClient(application(library), base_url=HOME)
    assert "No recurring audit has found" in client.get("/artifacts/made@1/attempts").text
    remember(store, "made", mark(store, "made"), deep=True)
    said = client.get("/artifacts/made@1/attempts").text
    assert "derived again. Nothing of the run has changed since" in said and "the store holds" not in said
    assert "Read exactly this artifact" in said and "Read its tables" in client.get("/artifacts/made@1/checkpoint").text

    train = find(store, "made@1/attempts").inputs[0].artifact
    make_run(store, made_config("else", seed=9), iterations=1, make=lambda numbers: problems_of(range(20, 30)))
    shutil.copy(*(tmp_path / "store" / f"{one}/_manifest.json" for one in ("runs/else/problems/train", train)))
    fresh = Library(store.url, tmp_path / "cache")
    said = TestClient(application(fresh), base_url=HOME).get("/artifacts/made@1/attempts").text
    assert "the store holds" in said and "Something of the run is new or another since then" in said
    assert 'class="box broken"' in said
    library.close()
    fresh.close()


def test_a_damaged_artifact_is_said_not_to_hold(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, iterations=1)
    part = tmp_path / "store/runs/made/iteration=001/attempts/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    client = TestClient(application(Library(store.url, tmp_path / "cache")), base_url=HOME)
    assert "It does not hold" in client.get("/artifacts/made@1/attempts?check=true").text
    answer = client.get("/runs/made/iterations/1/attempts")
    assert answer.status_code == 500 and "part-00000.parquet" in answer.text and "Traceback" not in answer.text
    deletion.mark(store, "made")
    for file in (tmp_path / "store").rglob("attempts/*.parquet"):
        file.unlink()
    gone = client.get("/runs/made/iterations/1/attempts")
    assert gone.status_code == 410 and "fem gc has removed" in gone.text
    assert "Marked as deleted" in client.get("/runs/made").text


def test_a_damaged_or_collected_run_hides_nothing_of_the_others(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    for seed, name in enumerate(("made", "gone", "torn")):
        make_run(store, made_config(name, seed=seed))
    deletion.mark(store, "gone")
    rules = collect.Rules(now=datetime.now(UTC).timestamp() + 60, grace=1.0)
    removed = [one for batch in collect.sweep(store, collect.plan(collect.look(store), rules), rules) for one in batch]
    assert any("gone" in one.path for one in removed)
    (tmp_path / "store/runs/torn/iteration=001/attempts/_manifest.json").write_text("{")
    library = Library(store.url, tmp_path / "cache")
    client = TestClient(application(library), base_url=HOME)

    assert "Not known of torn, which cannot be read" in client.get("/artifacts/made@1/attempts").text
    assert client.get("/runs/torn/iterations/2/attempts").text.count("<article") == 13
    assert client.get("/runs/torn").status_code == 500, "its own page says which file it is"
    compared = client.get("/compare?run=made&run=gone")
    assert compared.status_code == 200 and "or fem gc has removed the answers" in compared.text
    page = client.get("/artifacts/gone@1/attempts").text
    assert "fem gc has removed the files" in page and "Read exactly" not in page
    assert client.get("/runs/gone/iterations/1/export").status_code == 410
    library.close()


def test_hostile_texts_are_shown_as_text(client: TestClient, library: Library) -> None:
    problem = library.attempts("hostile", 1).rows[0].problem_id
    place = "/runs/hostile/iterations/1/attempts"
    pages = [
        client.get(address).text
        for address in (
            *("/runs", "/runs/hostile", place, f"{place}?text=%3Cscript%3E", f"{place}?label=%22%3E{SCRIPT}"),
            *(f"/runs/hostile/problems/{problem}?old=1.attempts.0&new=1.attempts.{n}" for n in range(1, len(TEXTS))),
            *(f"{place}/{problem}/{n}" for n in range(len(TEXTS))),
            *("/artifacts/runs/hostile/problems/train", "/artifacts/runs/hostile/iteration=001/attempts"),
        )
    ]
    assert sum(MARK in page for page in pages) >= 12
    for page in (*pages, report(library, "hostile", 10)):
        tags = Page(page).tags
        assert all(attributes.get("src") == "/static/browse.js" for tag, attributes in tags if tag == "script")
        assert not {"iframe", "img", "b1"} & {tag for tag, _ in tags}
        assert not any(character in page for character in "\x00\x1b\u202e\u200b")
        assert "1337" not in page, "templates in texts are not run"
    assert len(pages[2]) < 400_000, "long texts are cut on a page of many"
    assert "x" * 1_200_000 in pages[-3 - 1] or any("x" * 1_200_000 in page for page in pages), "and whole on their own"
    assert library.attempts("hostile", 1).total == len(TEXTS), "nothing was dropped"


def test_a_reader_annotates_an_attempt_and_finds_it_again(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, iterations=1)
    library = Library(store.url, tmp_path / "cache")
    client = TestClient(application(library), base_url=HOME)
    row = library.attempts("made", 1).rows[1]
    said = {"attempt": row.id, "value": "bad", "comment": SCRIPT, "author": "A. Reader"}
    answer = client.post("/runs/made/annotations", data=said, headers={"origin": HOME})
    place = f"/runs/made/iterations/1/attempts/{row.problem_id}/{row.attempt}"
    assert answer.history[0].headers["location"] == place and answer.status_code == 200
    assert "A. Reader" in answer.text and MARK in answer.text and SCRIPT not in answer.text
    for back, leads in (
        ("/runs/made/iterations/1/attempts?page=1#a-1", "/runs/made/iterations/1/attempts?page=1#a-1"),
        ("//evil.example", place),
    ):
        sent = client.post("/runs/made/annotations", data=said | {"back": back}, headers={"origin": HOME})
        assert sent.history[0].headers["location"] == leads, "to the list that was being read"
    assert f'attempts?sort=length#a-{row.id}"' in client.get("/runs/made/iterations/1/attempts?sort=length").text
    assert client.get("/runs/made/iterations/1/attempts?annotation=bad").text.count("<article") == 1
    assert client.get("/runs/made/iterations/1/attempts?annotation=none").text.count("<article") == 12
    assert "filter.annotations=made@3" in client.get("/runs/made").text
    for change in ({"value": "fine"}, {"attempt": "1.0123456789abcdef.0"}, {"author": " "}):
        answer = client.post("/runs/made/annotations", data=said | change, headers={"origin": HOME})
        assert answer.status_code == 422 and "Not here" not in answer.text, change
    library.close()


def test_other_sites_and_other_names_are_refused(client: TestClient) -> None:
    assert client.get("/runs", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/runs", headers={"host": "127.0.0.1.evil.example:8765"}).status_code == 400
    assert client.get("/runs", headers={"host": "[::1]:8765"}).status_code == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        assert client.post("/runs/made/annotations", headers={"origin": origin}).status_code == 403
    assert client.post("/runs/made/annotations").status_code == 403, "browsers say where a form comes from"


def test_a_store_that_is_away_is_said_and_read_again_when_it_is_back(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fem_core.browse.remembered._SHARED", 0.0)
    store = Store.open(f"s3://{BUCKET}/{uuid4().hex}")
    make_run(store, iterations=1)
    library = Library(store.url, tmp_path / "cache")
    library.store.root.wait(0.3)
    client = TestClient(application(library), base_url=HOME)
    place = "/runs/made/iterations/1/attempts"
    assert client.get(place).status_code == 200
    s3_server.kill()
    try:
        answer = client.get(place)
        assert answer.status_code == 503 and "The store does not answer" in answer.text
        assert "has not answered for" in answer.text and s3_server.secret not in answer.text
    finally:
        s3_server.start()
    assert client.get(place).status_code == 200
    library.close()


def test_a_form_is_small_and_says_how_long_it_is(client: TestClient) -> None:
    own = {"origin": HOME, "content-type": "application/x-www-form-urlencoded"}
    for path in ("/runs/made/annotations", SIGN_IN):
        assert client.post(path, content=b"token=" + b"x" * 200_000, headers=own).status_code == 413
        assert client.post(path, content=iter([b"token=", b"x"]), headers=own).status_code == 413, "in chunks"
        assert client.post(path, content=b"x=1", headers=own).status_code == 422


def test_who_waits_for_a_store_that_is_away_waits_once() -> None:
    shared, made, asked = Shared(), [], threading.Barrier(8)

    def away() -> None:
        made.append(1)
        raise StoreAway("The store does not answer.")

    def ask(_: int) -> str:
        asked.wait()
        with pytest.raises(StoreAway) as told:
            shared.get("made", away)
        return str(told.value)

    with ThreadPoolExecutor(8) as readers:
        assert set(readers.map(ask, range(8))) == {"The store does not answer."}
    assert len(made) < 8


def test_a_server_for_others_needs_its_token(library: Library) -> None:
    for host, token in (("0.0.0.0", None), ("192.168.1.2", None), ("127.0.0.1", "short"), ("::", None)):
        with pytest.raises(FemError):
            check_token(host, token)
    for host in ("127.0.0.1", "localhost", "::1"):
        check_token(host, None)

    client = TestClient(application(library, TOKEN), base_url="http://reader.example", follow_redirects=False)
    html = {"accept": "text/html"}
    wanted = client.get("/runs/made/iterations/1/attempts?text=a%26b", headers=html).headers["location"]
    assert wanted == f"{SIGN_IN}?to=%2Fruns%2Fmade%2Fiterations%2F1%2Fattempts%3Ftext%3Da%2526b"
    assert 'name="to" value="/runs/made/iterations/1/attempts?text=a%26b"' in client.get(wanted).text
    for address in ("/runs", "/openapi.json", "/runs/made/iterations/1/export", "/static/../runs"):
        assert client.get(address).status_code == 401, address
    assert client.get("/static/browse.css").status_code == 200
    assert client.get("/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/runs", headers={"authorization": f"Bearer {TOKEN}x"}).status_code == 401
    same = {"origin": "http://reader.example"}
    assert client.post(SIGN_IN, data={"token": "wrong"}, headers=same).status_code == 403
    assert client.post(SIGN_IN, data={"token": TOKEN}, headers={"origin": "http://evil.example"}).status_code == 403
    answer = client.post(SIGN_IN, data={"token": TOKEN}, headers=same)
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303 and TOKEN not in cookie and "HttpOnly" in cookie and "SameSite=lax" in cookie
    for to, leads in (
        ("/runs/made?a=b", "/runs/made?a=b"),
        *(
            (to, "/runs")
            for to in ("//evil.example", "/\\evil.example", "/\t/evil.example", "https://evil.example", "")
        ),
    ):
        answer = client.post(SIGN_IN, data={"token": TOKEN, "to": to}, headers=same)
        assert answer.headers["location"] == leads, to
    assert client.get("/runs").status_code == 200, "signed in"
    assert (
        TestClient(application(library, TOKEN), base_url="http://reader.example", cookies=client.cookies)
        .get("/runs")
        .status_code
        == 401
    ), "another server does not know the session"


def test_a_report_stands_alone(library: Library) -> None:
    html = report(library, "made", 5)
    page = Page(html)
    assert not [tag for tag, attributes in page.tags if tag in ("script", "link", "img") or "src" in attributes]
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert page.links and all(link.startswith("#") and link[1:] in ids for link in page.links)
    assert html.count("<article") == 10 and "default-src 'none'; style-src 'sha256-" in html
    none = report(library, "made", 0)
    assert "<article" not in none and Page(none).links == ["#main"], "nothing below to lead to"


def test_any_request_gets_an_answer_that_the_openapi_describes(library: Library) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", web(library)[0])
    tried = []
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(
                checks=[not_a_server_error, status_code_conformance, content_type_conformance], base_url=HOME
            )

        ask()
        tried.append(operation.label)
    assert len(tried) >= 7

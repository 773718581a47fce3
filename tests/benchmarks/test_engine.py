"""`engine`, `listing`, `latency`, `predict` and `results` start their own engines and fill every figure."""

from worker.celery_app import MAX_PENDING


def test_the_engine_is_measured_with_s3_and_without(measure):
    figures, output = measure("engine", "--items", "50", "--batch", "8", "--quick")
    for store in ("memory", "s3"):
        assert figures[store]["new"]["items_per_second"] > 0
        assert figures[store]["known"]["items_per_second"] > 0
        assert figures[store]["new"]["cpu_ms_per_item"]["fetch"] > 0
        assert "postgres" in figures[store]["new"]["engines_cpu_ms_per_item"]
    assert figures["claim_ms_per_item"].keys() == {"1", "8", "32", "64"}
    assert figures["finish_ms_per_item"].keys() == {"8", "32"}
    assert figures["claim_and_finish_ms_per_item"] > 0
    assert figures["lookup_ms_per_item"] > 0
    assert figures["heartbeat_ms"] > 0
    assert figures["listing_rows_per_second"] > 0
    assert figures["command"] == "python -m benchmarks engine --items 50 --batch 8 --quick"
    assert "memory (no S3)" in output


def test_listing_sends_no_more_messages_than_the_window_whatever_its_size(measure):
    figures, _ = measure("listing", "--keys", "100000", "--quick")
    assert figures["items"] == 100_000
    assert figures["notifications"] > MAX_PENDING
    assert 0 < figures["most_messages_waiting"] <= MAX_PENDING
    assert figures["redis_growth_mb"] < 10
    assert figures["lister_peak_mb"] - figures["lister_before_mb"] < 100
    assert figures["database_seconds"] > 0


def test_the_models_share_of_the_time_is_measured_behind_a_slow_network(measure):
    figures, _ = measure("latency", "--images", "4", "--latency-ms", "5")
    assert figures["done"] == 4
    assert 0 < figures["busy_share_of_all"] <= figures["busy_share"] <= 1


def test_predictions_are_measured_new_queued_and_known_with_small_requests_beside_them(measure):
    figures, output = measure("predict", "--tasks", "30", "--projects", "2", "--samples", "20", "--quick")
    assert {"new", "queued", "known"} == set(figures["predict_ms"])
    assert all(phase["n"] >= 2 for phase in figures["predict_ms"].values())
    assert figures["answer_bytes"] > 30 * 12_000  # all were known in the end
    for when in ("idle", "beside"):
        assert set(figures["small_ms"][when]) == {"/health", "/setup", "floor"}
        for latency in figures["small_ms"][when].values():
            assert latency["n"] >= 20
            assert 0 < latency["median"] <= latency["p99"] <= latency["max"]
            assert 0 <= latency["late"] <= latency["n"]
    assert "without a worker" in output


def test_pages_of_results_are_measured_in_an_embedded_database(measure):
    figures, _ = measure("results", "--results", "1000", "--questions", "10")
    names = [combination["filter"] for combination in figures["filters"]]
    assert names[0] == "no filter"
    assert {"label", "dropped_at", "label + min_score"} <= set(names)
    assert all(0 < row["p50_ms"] <= row["p99_ms"] <= row["worst_ms"] for row in figures["filters"])
    assert "database_url" not in figures["setting"]

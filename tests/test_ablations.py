"""The benchmark's registrations without one of their terms."""

from tests.benchmarks.clips import ABLATIONS, OFF, registration_without


def test_every_ablation_states_every_term_since_a_sequence_keeps_its_settings():
    default = registration_without(())
    assert len(default) == len(OFF) and not set(default) & {f"registration.{key}={value}" for key, value in OFF.items()}
    for name, left_out in ABLATIONS.items():
        stated = registration_without(left_out)
        assert [line.partition("=")[0] for line in stated] == [f"registration.{key}" for key in OFF], name
        assert len(set(stated) - set(default)) == len(left_out), name

"""The story of a run and its report, made once for all tests that only read them."""

import copy

import pytest
from report_story import events_of, fixed_story, report


@pytest.fixture(scope="session")
def story_events(tmp_path_factory):
    return events_of(fixed_story(tmp_path_factory.mktemp("story")))


@pytest.fixture
def events(story_events):
    return copy.deepcopy(story_events)


@pytest.fixture(scope="session")
def fixed(story_events, tmp_path_factory):
    """report.md and report.html of the whole story."""
    return report(story_events, tmp_path_factory.mktemp("fixed"))

"""Law: a recogniser hears the same however its audio is cut, and what comes later never changes what was said about the past."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavespike.models.sparch import SpArch, SpArchConfig
from wavespike.signal.filterbank import FilterbankConfig

torch.manual_seed(0)
MODELS = {kind: SpArch(SpArchConfig(labels=("a", "b"), features=FilterbankConfig(sample_rate=4000), model_type=kind, nb_hiddens=6, frames_per_step=n)).eval()
          for kind, n in (("RadLIF", 1), ("SE-adLIF", 2), ("LiGRU", 1))}


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(sorted(MODELS)), cuts=st.lists(st.integers(1, 500), min_size=1, max_size=8), seed=st.integers(0, 5))
def test_any_chunking_equals_the_whole(kind, cuts, seed):
    model = MODELS[kind]
    audio = 0.3 * torch.randn(1, sum(cuts), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode(), model.stream() as session:
        for chunk in audio.split(cuts, 1):
            session.push(chunk)
        torch.testing.assert_close(session.flush(), model(audio), rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(sorted(MODELS)), heard=st.integers(200, 1500), more=st.integers(1, 800))
def test_the_answer_so_far_is_that_of_what_was_heard(kind, heard, more):
    model = MODELS[kind]
    audio = 0.3 * torch.randn(1, heard + more, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), model.stream() as session:
        so_far = session.push(audio[:, :heard]).clone()
        session.push(audio[:, heard:])
        torch.testing.assert_close(so_far, model(audio[:, :heard]), rtol=1e-4, atol=1e-4)

from vdu_jax.diffusion import samplers
from vdu_jax.tasks import base


def test_a_plan_is_made_of_the_section_that_says_how_to_sample(config):
    schedule = base.parameterization_of(config.diffusion.to_dict()).schedule
    config.sampler.update(steps=4, name="ddim", eta=0.5, spacing="linspace")
    plan = samplers.make_plan(schedule, **base.plan_settings(config.sampler))
    expected = samplers.make_plan(schedule, "ddim", 4, eta=0.5, spacing="linspace")
    assert plan.noise.tolist() == expected.noise.tolist() and plan.t.tolist() == [49, 33, 16, 0]
    config.sampler.update(spacing="trailing", timesteps=(49, 20, 3, 1))
    plan = samplers.make_plan(schedule, **base.plan_settings(config.sampler))
    assert plan.t.tolist() == [49, 20, 3, 1]

espalier_test(test_hidden_states SOURCES core/test_hidden_states.cpp LIBS espalier::profile espalier::model)
espalier_test(test_profile SOURCES core/test_profile.cpp core/test_profile_factors.cpp
    LIBS espalier::profile espalier::score espalier::session espalier::model espalier::lowrank espalier::tokenizer espalier::checkpoint)
espalier_test(test_whitened SOURCES core/test_whitened.cpp
    LIBS espalier::profile espalier::evaluate espalier::export espalier::model espalier::session)
espalier_test(test_nll_probes SOURCES core/test_nll_probes.cpp
    LIBS espalier::profile espalier::score espalier::session espalier::model)
espalier_test(test_gradient_sweep SOURCES core/test_gradient_sweep.cpp
    LIBS espalier::profile espalier::score espalier::session espalier::model)
espalier_test(test_profile_statistics SOURCES core/test_profile_statistics.cpp
    LIBS espalier::profile espalier::statistics espalier::score espalier::model espalier::tokenizer espalier::checkpoint)

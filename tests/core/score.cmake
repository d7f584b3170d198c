espalier_test(test_score SOURCES core/test_score.cpp LIBS espalier::score)
espalier_test(test_nll_estimate SOURCES core/test_nll_estimate.cpp LIBS espalier::score)
espalier_test(test_probe_fit SOURCES core/test_probe_fit.cpp LIBS espalier::score)
espalier_test(test_checkpoint_weights SOURCES core/test_checkpoint_weights.cpp LIBS espalier::pipeline)

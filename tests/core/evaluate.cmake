espalier_test(test_evaluate SOURCES core/test_evaluate.cpp LIBS espalier::evaluate TIMEOUT 300)
espalier_test(test_divergence SOURCES core/test_divergence.cpp LIBS espalier::evaluate)
espalier_test(test_choice_scoring SOURCES core/test_choice_scoring.cpp LIBS espalier::evaluate)
set_tests_properties(test_evaluate PROPERTIES ENVIRONMENT "GTEST_FILTER=-Demo.PerplexityOfWholeTexts")
add_test(NAME test_evaluate_demo COMMAND test_evaluate --gtest_filter=Demo.PerplexityOfWholeTexts)
set_tests_properties(test_evaluate_demo PROPERTIES TIMEOUT 900 LABELS slow)

# Not part of a build by default: `ninja estimate_bench`.
add_executable(estimate_bench EXCLUDE_FROM_ALL bench/estimate_bench.cpp)
add_executable(estimate_accuracy EXCLUDE_FROM_ALL bench/estimate_accuracy.cpp)
target_link_libraries(estimate_bench PRIVATE espalier::evaluate espalier::profile espalier::score espalier::model espalier::tokenizer
    espalier::options)
target_link_libraries(estimate_accuracy PRIVATE espalier::evaluate espalier::profile espalier::score espalier::model espalier::tokenizer
    espalier::options)

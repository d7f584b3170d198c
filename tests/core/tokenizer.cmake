espalier_test(test_tokenizer SOURCES core/test_tokenizer.cpp core/test_windows.cpp core/test_text_file.cpp core/test_patterns.cpp core/test_tuning_text.cpp
    LIBS espalier::tokenizer espalier::checkpoint)
set_tests_properties(test_tokenizer PROPERTIES ENVIRONMENT "GTEST_FILTER=-*LargeFile*")
# Vocabularies of 150,000 words, which lie beside the checkout or nowhere.
add_test(NAME test_tokenizer_large COMMAND test_tokenizer --gtest_filter=*LargeFile*)
set_tests_properties(test_tokenizer_large PROPERTIES LABELS slow TIMEOUT 600)

espalier_test(test_tokenizer SOURCES core/test_tokenizer.cpp core/test_windows.cpp core/test_text_file.cpp core/test_patterns.cpp
    LIBS espalier::tokenizer espalier::checkpoint)

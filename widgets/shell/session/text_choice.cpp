#include "shell/session/text_choice.h"

#include "look/format.h"

#include <QCoreApplication>
#include <QCryptographicHash>
#include <QFile>
#include <QFileInfo>

#include <algorithm>
#include <array>

namespace espalier
{

namespace
{

QString tr(const char* text, const char* context = nullptr) { return QCoreApplication::translate("Texts", text, context); }

QByteArray contentOf(const QString& path)
{
    QCryptographicHash hash(QCryptographicHash::Sha256);
    QFile file(path);
    return file.open(QIODevice::ReadOnly) && hash.addData(&file) ? hash.result() : QByteArray();
}

// By name, or by content where another name has as many bytes. Files of another computer are told apart by name alone.
bool sameText(const QString& a, const QString& b)
{
    if (a == b) return true;
    const QFileInfo first(a);
    const QFileInfo second(b);
    if (!first.exists() || !second.exists()) return false;
    if (first.canonicalFilePath() == second.canonicalFilePath()) return true;
    return first.size() == second.size() && first.size() > 0 && contentOf(a) == contentOf(b);
}

// File of calibration, live and locked text, one name for one content.
std::array<QString, 3> filesOf(const TextChoice& choice)
{
    std::array<QString, 3> files = {choice.calibration, choice.live.isEmpty() ? choice.calibration : choice.live, choice.locked};
    if (files[2].isEmpty()) files[2] = files[1];
    for (std::size_t i = 1; i < files.size(); ++i)
        for (std::size_t before = 0; before < i; ++before)
            if (sameText(files[before], files[i])) files[i] = files[before];
    return files;
}

}  // namespace

TextSelection selectionOf(const EvaluationText& text)
{
    TextSelection selection;
    selection.text.assign(text.paths.begin(), text.paths.end());
    selection.firstWindow = text.firstWindow;
    selection.windowLength = text.windowLength;
    return selection;
}

QString textName(const EvaluationText& text)
{
    if (text.paths.empty()) return {};
    const QString name = QFileInfo(QString::fromStdString(text.paths.front())).fileName();
    return text.part ? tr("%1 from window %2").arg(name, format::count(text.firstWindow)) : name;
}

std::vector<QString> sharedFiles(const TextChoice& choice)
{
    const std::array<QString, 3> files = filesOf(choice);
    std::vector<QString> shared;
    for (const QString& file : files)
        if (std::count(files.begin(), files.end(), file) > 1 && std::find(shared.begin(), shared.end(), file) == shared.end())
            shared.push_back(file);
    return shared;
}

std::optional<TextShares> shareTexts(const TextChoice& choice, int windowLength, const std::map<QString, int>& windows)
{
    TextShares shares;
    shares.calibration.fullWindows = kCalibrationWindows;
    const std::array<QString, 3> files = filesOf(choice);
    const std::array<EvaluationText*, 3> texts = {&shares.calibration, &shares.live, &shares.locked};
    for (std::size_t i = 0; i < texts.size(); ++i) {
        texts[i]->paths = {files[i].toStdString()};
        texts[i]->windowLength = windowLength;
    }
    for (const QString& file : sharedFiles(choice)) {
        const auto found = windows.find(file);
        if (found == windows.end()) return std::nullopt;
        const int there = found->second;
        int wanted = 0;
        int roles = 0;
        for (std::size_t i = 0; i < texts.size(); ++i)
            if (files[i] == file) {
                wanted += texts[i]->fullWindows;
                ++roles;
            }
        if (there < roles) return std::nullopt;
        int first = 0;
        for (std::size_t i = 0; i < texts.size(); ++i) {
            if (files[i] != file) continue;
            --roles;
            EvaluationText& text = *texts[i];
            if (there < wanted) {
                const auto share = static_cast<int>(static_cast<std::int64_t>(there) * text.fullWindows / wanted);
                text.fullWindows = std::clamp(share, 1, there - first - roles);
            }
            text.firstWindow = first;
            text.part = true;
            first += text.fullWindows;
        }
    }
    for (EvaluationText* text : texts)
        text->quickWindows = std::min(text->quickWindows, text->fullWindows);
    return shares;
}

}  // namespace espalier
